# ruff: noqa: E501  user agents are as long as they are
"""User agents as they were sent from 2023 to 2026, and what nobody should send."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessiondb.core.agents import Agent, parse_agent

WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) "
LINUX = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) "
IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
IPAD = "Mozilla/5.0 (iPad; CPU OS 17_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "

# What was sent; label, version of the browser, version of the system, device.
SENT: list[tuple[str, tuple[str, str | None, str | None, str]]] = [
    (WINDOWS + "Chrome/115.0.0.0 Safari/537.36", ("Chrome on Windows", "115", "10", "desktop")),
    (WINDOWS + "Chrome/141.0.0.0 Safari/537.36", ("Chrome on Windows", "141", "10", "desktop")),
    (MAC + "Chrome/138.0.0.0 Safari/537.36", ("Chrome on macOS", "138", "10.15", "desktop")),
    (LINUX + "Chrome/124.0.0.0 Safari/537.36", ("Chrome on Linux", "124", None, "desktop")),
    (
        "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
        ("Chrome on Chromebook", "131", None, "desktop"),
    ),
    (ANDROID + "Chrome/137.0.0.0 Mobile Safari/537.36", ("Chrome on Android", "137", "10", "mobile")),
    (ANDROID + "Chrome/137.0.0.0 Safari/537.36", ("Chrome on Android", "137", "10", "tablet")),
    (
        "Mozilla/5.0 (Linux; Android 14; SM-S918B) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.6099.144 Mobile Safari/537.36",
        ("Chrome on Android", "120", "14", "mobile"),
    ),
    (IPHONE + "CriOS/137.0.7151.79 Mobile/15E148 Safari/604.1", ("Chrome on iPhone", "137", "18.5", "mobile")),
    (IPAD + "CriOS/120.0.6099.119 Mobile/15E148 Safari/604.1", ("Chrome on iPad", "120", "17.7", "tablet")),
    (
        "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
        ("Firefox on Linux", "128", None, "desktop"),
    ),
    (
        "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        ("Firefox on Linux", "140", None, "desktop"),
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
        ("Firefox on Windows", "115", "10", "desktop"),
    ),
    (
        "Mozilla/5.0 (Windows NT 6.1; Win64; x64; rv:115.0) Gecko/20100101 Firefox/115.0",
        ("Firefox on Windows", "115", "7", "desktop"),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:139.0) Gecko/20100101 Firefox/139.0",
        ("Firefox on macOS", "139", "10.15", "desktop"),
    ),
    (
        "Mozilla/5.0 (Android 15; Mobile; rv:139.0) Gecko/139.0 Firefox/139.0",
        ("Firefox on Android", "139", "15", "mobile"),
    ),
    (
        "Mozilla/5.0 (Android 13; Tablet; rv:120.0) Gecko/120.0 Firefox/120.0",
        ("Firefox on Android", "120", "13", "tablet"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/127.0 Mobile/15E148 Safari/605.1.15",
        ("Firefox on iPhone", "127", "17.5", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 16_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) FxiOS/8.3.0 Focus/8.3.0 Mobile/15E148 Safari/605.1.15",
        ("Firefox Focus on iPhone", "8.3", "16.3", "mobile"),
    ),
    (
        "Mozilla/5.0 (X11; FreeBSD amd64; rv:121.0) Gecko/20100101 Firefox/121.0",
        ("Firefox on FreeBSD", "121", None, "desktop"),
    ),
    (
        "Mozilla/5.0 (X11; OpenBSD amd64; rv:126.0) Gecko/20100101 Firefox/126.0",
        ("Firefox on OpenBSD", "126", None, "desktop"),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Safari/605.1.15",
        ("Safari on macOS", "17.4", "10.15", "desktop"),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Safari/605.1.15",
        ("Safari on macOS", "26", "10.15", "desktop"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/16.6 Mobile/15E148 Safari/604.1",
        ("Safari on iPhone", "16.6", "16.6", "mobile"),
    ),
    (IPHONE + "Version/18.5 Mobile/15E148 Safari/604.1", ("Safari on iPhone", "18.5", "18.5", "mobile")),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_7 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1",
        ("Safari on iPhone", "26.1", "18.7", "mobile"),
    ),
    (IPAD + "Version/17.7 Mobile/15E148 Safari/604.1", ("Safari on iPad", "17.7", "17.7", "tablet")),
    (
        "Mozilla/5.0 (iPod touch; CPU iPhone OS 15_8 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/15.6 Mobile/15E148 Safari/604.1",
        ("Safari on iPhone", "15.6", "15.8", "mobile"),
    ),
    (WINDOWS + "Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0", ("Edge on Windows", "138", "10", "desktop")),
    (MAC + "Chrome/125.0.0.0 Safari/537.36 Edg/125.0.2535.67", ("Edge on macOS", "125", "10.15", "desktop")),
    (ANDROID + "Chrome/136.0.0.0 Mobile Safari/537.36 EdgA/136.0.0.0", ("Edge on Android", "136", "10", "mobile")),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_7_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 EdgiOS/136.0.3240.91 Mobile/15E148 Safari/604.1",
        ("Edge on iPhone", "136", "17.7", "mobile"),
    ),
    (WINDOWS + "Chrome/64.0.3282.140 Safari/537.36 Edge/18.17763", ("Edge on Windows", "18.17763", "10", "desktop")),
    (WINDOWS + "Chrome/137.0.0.0 Safari/537.36 OPR/121.0.0.0", ("Opera on Windows", "121", "10", "desktop")),
    (ANDROID + "Chrome/134.0.0.0 Mobile Safari/537.36 OPR/89.0.0.0", ("Opera on Android", "89", "10", "mobile")),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4.1 Mobile/15E148 Safari/604.1 OPT/4.6.1",
        ("Opera on iPhone", "4.6", "17.4", "mobile"),
    ),
    (
        "Opera/9.80 (Android; Opera Mini/36.2.2254/191.249; U; en) Presto/2.12.423 Version/12.16",
        ("Opera Mini on Android", "36.2", None, "mobile"),
    ),
    ("Opera/9.80 (Windows NT 6.1; WOW64) Presto/2.12.388 Version/12.18", ("Opera on Windows", "12.18", "7", "desktop")),
    (
        ANDROID + "SamsungBrowser/25.0 Chrome/121.0.0.0 Mobile Safari/537.36",
        ("Samsung Internet on Android", "25", "10", "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; SAMSUNG SM-X700) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/23.0 Chrome/115.0.0.0 Safari/537.36",
        ("Samsung Internet on Android", "23", "13", "tablet"),
    ),
    (WINDOWS + "Chrome/126.0.0.0 Safari/537.36 Vivaldi/6.8.3381.46", ("Vivaldi on Windows", "6.8", "10", "desktop")),
    (
        WINDOWS + "Chrome/122.0.0.0 YaBrowser/24.4.0.0 Safari/537.36",
        ("Yandex Browser on Windows", "24.4", "10", "desktop"),
    ),
    (WINDOWS + "Chrome/118.0.0.0 Whale/3.23.214.17 Safari/537.36", ("Whale on Windows", "3.23", "10", "desktop")),
    (
        "Mozilla/5.0 (Linux; U; Android 13; en-US; 2201117TG Build/TKQ1.221114.001) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/100.0.4896.127 Mobile Safari/537.36 XiaoMi/MiuiBrowser/14.4.0-g",
        ("Mi Browser on Android", "14.4", "13", "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 12; HUAWEI NOH-NX9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.5735.196 HuaweiBrowser/15.0.4.312 Mobile Safari/537.36",
        ("Huawei Browser on Android", "15", "12", "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; U; Android 11; en-US; RMX3231) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/100.0.4896.58 UCBrowser/13.4.0.1306 Mobile Safari/537.36",
        ("UC Browser on Android", "13.4", "11", "mobile"),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15 Ddg/17.5",
        ("DuckDuckGo on macOS", "17.5", "10.15", "desktop"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; KFSNWI) AppleWebKit/537.36 (KHTML, like Gecko) Silk/120.1.1 like Chrome/120.0.6099.194 Safari/537.36",
        ("Silk on Android", "120.1", "13", "tablet"),
    ),
    (
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.0 Safari/605.1.15 Epiphany/605.1.15",
        ("GNOME Web on Linux", "605.1", None, "desktop"),
    ),
    (LINUX + "QtWebEngine/6.6.2 Chrome/112.0.5615.213 Safari/537.36", ("QtWebEngine on Linux", "6.6", None, "desktop")),
    (LINUX + "Ubuntu Chromium/120.0.0.0 Chrome/120.0.0.0 Safari/537.36", ("Chromium on Linux", "120", None, "desktop")),
    (
        "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
        ("Internet Explorer on Windows", "11", "10", "desktop"),
    ),
    (
        "Mozilla/5.0 (compatible; MSIE 10.0; Windows NT 6.2; Trident/6.0)",
        ("Internet Explorer on Windows", "10", "8", "desktop"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/UQ1A.240205.004; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/121.0.6167.178 Mobile Safari/537.36",
        ("Web view on Android", "121", "14", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_3 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
        ("Web view on iPhone", None, "17.3", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/21F90 [FBAN/FBIOS;FBAV/470.0.0.40.107;FBBV/609911445;FBDV/iPhone14,5;FBMD/iPhone;FBSN/iOS;FBSV/17.5.1]",
        ("Facebook app on iPhone", "470", "17.5", "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; SM-A536B Build/TP1A.220624.014; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/124.0.6367.179 Mobile Safari/537.36 [FB_IAB/FB4A;FBAV/465.0.0.60.82;]",
        ("Facebook app on Android", "465", "13", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_4_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/21E236 Instagram 331.0.4.29.93 (iPhone15,3; iOS 17_4_1; en_US; en; scale=3.00; 1290x2796; 595637087)",
        ("Instagram app on iPhone", "331", "17.4", "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 13; M2101K6G Build/TKQ1.220829.002; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/120.0.6099.144 Mobile Safari/537.36 musical_ly_2023209030 JsSdk/1.0 NetType/WIFI Channel/googleplay AppName/musical_ly app_version/32.9.3 ByteLocale/en BytedanceWebview/d8a21c6",
        ("TikTok app on Android", None, "13", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 MicroMessenger/8.0.44(0x18002c2f) NetType/WIFI Language/en",
        ("WeChat app on iPhone", "8", "16.6", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) GSA/340.3.697651361 Mobile/15E148 Safari/604.1",
        ("Google app on iPhone", "340.3", "18.1", "mobile"),
    ),
    (
        "Mozilla/5.0 (iPhone; CPU iPhone OS 16_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148 Safari Line/13.9.1",
        ("LINE app on iPhone", "13.9", "16.5", "mobile"),
    ),
    (
        WINDOWS + "Teams/1.6.00.4472 Chrome/102.0.5005.167 Electron/19.1.8 Safari/537.36",
        ("Microsoft Teams on Windows", "1.6", "10", "desktop"),
    ),
    (
        MAC + "Slack/4.36.134 Chrome/120.0.6099.227 Electron/28.2.1 Safari/537.36",
        ("Slack app on macOS", "4.36", "10.15", "desktop"),
    ),
    (
        LINUX + "notes/1.4.0 Chrome/122.0.6261.130 Electron/29.1.4 Safari/537.36",
        ("Electron app on Linux", "29.1", None, "desktop"),
    ),
    (
        "Mozilla/5.0 (PlayStation; PlayStation 5/2.26) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/13.0 Safari/605.1.15",
        ("Safari on PlayStation", "13", None, "other"),
    ),
    (
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64; Xbox; Xbox Series X) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36 Edg/120.0.2210.91",
        ("Edge on Xbox", "120", None, "other"),
    ),
    (
        "Mozilla/5.0 (Nintendo Switch; WifiWebAuthApplet) AppleWebKit/609.4 (KHTML, like Gecko) NF/6.0.2.21.3 NintendoBrowser/5.1.0.22474",
        ("Unknown browser on Nintendo", None, None, "other"),
    ),
    (
        "Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/94.0.4606.128 Safari/537.36 WebAppManager",
        ("Chrome on webOS", "94", None, "other"),
    ),
    (
        "Mozilla/5.0 (SMART-TV; LINUX; Tizen 7.0) AppleWebKit/537.36 (KHTML, like Gecko) 94.0.4606.31/7.0 TV Safari/537.36",
        ("Unknown browser on Tizen", None, None, "other"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 12; BRAVIA 4K VH2) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/115.0.5790.166 Safari/537.36",
        ("Chrome on Android", "115", "12", "other"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 12; Quest 3) AppleWebKit/537.36 (KHTML, like Gecko) OculusBrowser/32.0.0.4.39 Chrome/120.0.6099.193 VR Safari/537.36",
        ("Meta Quest Browser on Android", "32", "12", "other"),
    ),
    (
        "Mozilla/5.0 (Mobile; Nokia_800_Tough; rv:48.0) Gecko/48.0 Firefox/48.0 KAIOS/2.5.2",
        ("Firefox on KaiOS", "48", None, "mobile"),
    ),
    (
        "Mozilla/5.0 (Phone; OpenHarmony 5.0) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/114.0.0.0 Safari/537.36 ArkWeb/4.1.6.1 Mobile HuaweiBrowser/5.0.4.300",
        ("Huawei Browser on HarmonyOS", "5", None, "mobile"),
    ),
    (
        "Mozilla/5.0 (Linux; Android 12; CUBOT NOTE 30) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/119.0.0.0 Mobile Safari/537.36",
        ("Chrome on Android", "119", "12", "mobile"),
    ),
    ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", ("Googlebot", "2.1", None, "bot")),
    (
        "Mozilla/5.0 (Linux; Android 6.0.1; Nexus 5X Build/MMB29P) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/125.0.6422.60 Mobile Safari/537.36 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        ("Googlebot", "2.1", "6", "bot"),
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm) Chrome/116.0.1938.76 Safari/537.36",
        ("bingbot", "2", None, "bot"),
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://openai.com/gptbot)",
        ("GPTBot", "1.2", None, "bot"),
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ClaudeBot/1.0; +claudebot@anthropic.com)",
        ("ClaudeBot", "1", None, "bot"),
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; ChatGPT-User/1.0; +https://openai.com/bot)",
        ("ChatGPT-User", "1", None, "bot"),
    ),
    (
        "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; PerplexityBot/1.0; +https://perplexity.ai/perplexitybot)",
        ("PerplexityBot", "1", None, "bot"),
    ),
    ("Mozilla/5.0 (compatible; YandexBot/3.0; +http://yandex.com/bots)", ("YandexBot", "3", None, "bot")),
    (
        "Mozilla/5.0 (compatible; Baiduspider/2.0; +http://www.baidu.com/search/spider.html)",
        ("Baiduspider", "2", None, "bot"),
    ),
    (
        "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15 (Applebot/0.1; +http://www.apple.com/go/applebot)",
        ("Applebot", "0.1", "10.15", "bot"),
    ),
    ("Mozilla/5.0 (compatible; AhrefsBot/7.0; +http://ahrefs.com/robot/)", ("AhrefsBot", "7", None, "bot")),
    ("Mozilla/5.0 (compatible; SemrushBot/7~bl; +http://www.semrush.com/bot.html)", ("SemrushBot", "7", None, "bot")),
    (
        "facebookexternalhit/1.1 (+http://www.facebook.com/externalhit_uatext.php)",
        ("facebookexternalhit", "1.1", None, "bot"),
    ),
    (
        "meta-externalagent/1.1 (+https://developers.facebook.com/docs/sharing/webmasters/crawler)",
        ("meta-externalagent", "1.1", None, "bot"),
    ),
    ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", ("Slackbot-LinkExpanding", "1", None, "bot")),
    ("Twitterbot/1.0", ("Twitterbot", "1", None, "bot")),
    ("TelegramBot (like TwitterBot)", ("TelegramBot", None, None, "bot")),
    ("WhatsApp/2.23.20.0 A", ("WhatsApp", "2.23", None, "bot")),
    ("Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)", ("Discordbot", "2", None, "bot")),
    (
        "LinkedInBot/1.0 (compatible; Mozilla/5.0; Apache-HttpClient +http://www.linkedin.com)",
        ("LinkedInBot", "1", None, "bot"),
    ),
    ("Mozilla/5.0+(compatible; UptimeRobot/2.0; http://www.uptimerobot.com/)", ("UptimeRobot", "2", None, "bot")),
    ("kube-probe/1.29", ("kube-probe", "1.29", None, "bot")),
    ("ELB-HealthChecker/2.0", ("ELB-HealthChecker", "2", None, "bot")),
    ("GoogleHC/1.0", ("GoogleHC", "1", None, "bot")),
    (LINUX + "HeadlessChrome/126.0.0.0 Safari/537.36", ("Headless Chrome", "126", None, "bot")),
    ("CCBot/2.0 (https://commoncrawl.org/faq/)", ("CCBot", "2", None, "bot")),
    ("curl/8.5.0", ("curl", "8.5", None, "other")),
    ("Wget/1.21.4", ("Wget", "1.21", None, "other")),
    ("python-requests/2.32.3", ("python-requests", "2.32", None, "other")),
    ("python-httpx/0.27.0", ("python-httpx", "0.27", None, "other")),
    ("Python/3.11 aiohttp/3.9.5", ("aiohttp", "3.9", None, "other")),
    ("Python-urllib/3.12", ("Python-urllib", "3.12", None, "other")),
    ("python-urllib3/2.2.1", ("python-urllib3", "2.2", None, "other")),
    ("okhttp/4.12.0", ("okhttp", "4.12", None, "other")),
    ("Go-http-client/2.0", ("Go-http-client", "2", None, "other")),
    ("axios/1.7.2", ("axios", "1.7", None, "other")),
    ("node", ("node", None, None, "other")),
    ("undici", ("undici", None, None, "other")),
    ("Java/17.0.10", ("Java", "17", None, "other")),
    ("Java-http-client/21.0.2", ("Java-http-client", "21", None, "other")),
    ("Apache-HttpClient/4.5.14 (Java/17.0.9)", ("Apache-HttpClient", "4.5", None, "other")),
    ("PostmanRuntime/7.39.0", ("PostmanRuntime", "7.39", None, "other")),
    ("insomnia/9.2.0", ("insomnia", "9.2", None, "other")),
    ("HTTPie/3.2.2", ("HTTPie", "3.2", None, "other")),
    ("GuzzleHttp/7", ("GuzzleHttp", "7", None, "other")),
    ("Dart/3.4 (dart:io)", ("Dart", "3.4", None, "other")),
    ("reqwest/0.12.4", ("reqwest", "0.12", None, "other")),
    ("Dalvik/2.1.0 (Linux; U; Android 13; SM-G991B Build/TP1A.220624.014)", ("App on Android", None, "13", "mobile")),
    ("MyShop/412 CFNetwork/1496.0.7 Darwin/23.5.0", ("MyShop", "412", None, "other")),
    ("MyShop/3.1 (iPhone; iOS 17.4; Scale/3.00)", ("MyShop on iPhone", "3.1", "17.4", "mobile")),
    (
        "com.example.shop/2.0 (Linux; U; Android 14; de_DE; Pixel 7) okhttp/4.9.3",
        ("com.example.shop on Android", "2", "14", "mobile"),
    ),
    ("testclient", ("testclient", None, None, "other")),
    ("Mozilla/5.0", ("Unknown device", None, None, "other")),
    ("-", ("Unknown device", None, None, "other")),
    ("", ("Unknown device", None, None, "other")),
]


def test_enough_of_them() -> None:
    assert len({agent for agent, _ in SENT}) == len(SENT) >= 80


@pytest.mark.parametrize(("agent", "expected"), SENT, ids=lambda value: value[:60] if isinstance(value, str) else "")
def test_a_user_agent_says_who_it_is(agent: str, expected: tuple[str, str | None, str | None, str]) -> None:
    found = parse_agent(agent)
    assert (found.label, found.browser_version, found.system_version, found.device) == expected


def test_all_that_is_known() -> None:
    edge = parse_agent(WINDOWS + "Chrome/138.0.0.0 Safari/537.36 Edg/138.0.0.0")
    assert edge == Agent("Edge", "138", "Windows", "10", "desktop")
    assert parse_agent(None) == Agent() == parse_agent("")


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (compatible; <script>alert(1)</script>bot/1.0)", "script"),
        ("<img src=x onerror=alert(1)>/1.0", None),
        ("a'--/1", "a"),
        ("Shop\\x1b[31m/1", "Shop"),
        ("\u202eevil/1", None),
        ("x" * 600, "x" * 40),
    ],
)
def test_names_are_letters_and_digits_whatever_was_sent(agent: str, name: str | None) -> None:
    assert parse_agent(agent).browser == name


PIECES = (
    st.sampled_from([*"()/; .-_"])
    | st.sampled_from(
        ("Mozilla/5.0", "Chrome/", "Edg/9", "Android", "iPhone", "Safari", "Version/", "Opera/", "MSIE ", "rv:", "bot")
    )
    | st.sampled_from(("+http://", "[FBAN/", "Windows NT ", "; wv)", "CPU iPhone OS ", "compatible; ", "9" * 30))
)


@given(st.text(max_size=700) | st.lists(PIECES, max_size=150).map("".join))
def test_anything_is_taken(agent: str) -> None:
    found = parse_agent(agent)
    for text in (found.label, found.browser, found.browser_version, found.system, found.system_version):
        assert text is None or re.fullmatch(r"[\w ._+-]{1,64}", text, re.ASCII)
    assert found.device in ("desktop", "mobile", "tablet", "bot", "other")
    assert parse_agent(agent[:512]) == found
