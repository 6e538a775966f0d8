"""Names of countries, and about where they are: the middle, and how far the farthest places that many live in are.

ISO 3166-1 alpha-2 codes and short names. Coordinates are whole or half degrees, radii rounded up to tens of kilometres:
good enough to say that somebody cannot have been in both of two countries, and for nothing else.
"""

from __future__ import annotations

from functools import lru_cache

from sessiondb.core.rules import Position

_TABLE = """
AD Andorra 42.5 1.5 20
AE United Arab Emirates 24 54 300
AF Afghanistan 33.5 66 650
AG Antigua and Barbuda 17.1 -61.8 60
AI Anguilla 18.2 -63.1 20
AL Albania 41 20 190
AM Armenia 40 45 190
AQ Antarctica -82 0 3000
AO Angola -12 18 900
AR Argentina -35 -65 2200
AS American Samoa -14.3 -170.7 150
AT Austria 47.5 14 320
AU Australia -25 134 2200
AW Aruba 12.5 -70 20
AX Åland Islands 60.2 20 60
AZ Azerbaijan 40.5 47.5 280
BA Bosnia and Herzegovina 44 18 190
BB Barbados 13.2 -59.5 20
BD Bangladesh 24 90 380
BE Belgium 50.7 4.5 160
BF Burkina Faso 12.5 -1.5 460
BG Bulgaria 42.7 25.5 280
BH Bahrain 26 50.5 40
BI Burundi -3.5 30 150
BJ Benin 9.5 2.3 380
BL Saint Barthélemy 17.9 -62.8 10
BM Bermuda 32.3 -64.8 20
BN Brunei 4.5 114.7 80
BO Bolivia -17 -65 850
BQ Caribbean Netherlands 12.2 -68.3 900
BR Brazil -11 -53 2500
BS Bahamas 24.5 -76.5 500
BT Bhutan 27.4 90.5 180
BV Bouvet Island -54.4 3.4 20
BW Botswana -22 24 600
BY Belarus 53.5 28 340
BZ Belize 17.2 -88.7 160
CA Canada 56 -96 3400
CC Cocos (Keeling) Islands -12.2 96.8 30
CD Democratic Republic of the Congo -3 23.5 1300
CF Central African Republic 6.5 20.5 750
CG Republic of the Congo -1 15.5 650
CH Switzerland 46.8 8.2 200
CI Côte d'Ivoire 7.5 -5.5 420
CK Cook Islands -20 -160 1300
CL Chile -35 -71 2500
CM Cameroon 6 12.5 800
CN China 35 104 3000
CO Colombia 4 -73 1000
CR Costa Rica 10 -84 260
CU Cuba 21.8 -79 650
CV Cabo Verde 15.5 -24 200
CW Curaçao 12.2 -69 40
CX Christmas Island -10.5 105.7 20
CY Cyprus 35 33 130
CZ Czechia 49.8 15.5 280
DE Germany 51.2 10.4 480
DJ Djibouti 11.7 42.6 130
DK Denmark 56 10.5 330
DM Dominica 15.4 -61.4 30
DO Dominican Republic 18.9 -70.4 220
DZ Algeria 29 3 1400
EC Ecuador -1.5 -80 1200
EE Estonia 58.7 25.5 200
EG Egypt 27 30 750
EH Western Sahara 24.5 -13.7 600
ER Eritrea 15.3 39 500
ES Spain 39 -5 1700
ET Ethiopia 9 39.5 900
FI Finland 64 26 650
FJ Fiji -17.8 178 400
FK Falkland Islands -51.7 -59.5 150
FM Micronesia 7 152 1700
FO Faroe Islands 62 -7 80
FR France 46.7 2.5 700
GA Gabon -0.7 11.7 430
GB United Kingdom 54 -2.5 750
GD Grenada 12.1 -61.7 40
GE Georgia 42 43.5 320
GF French Guiana 4 -53 300
GG Guernsey 49.5 -2.5 40
GH Ghana 7.8 -1.2 420
GI Gibraltar 36.1 -5.3 10
GL Greenland 70 -42 1700
GM Gambia 13.4 -15.5 180
GN Guinea 10.5 -11 480
GP Guadeloupe 16.2 -61.5 60
GQ Equatorial Guinea 1.7 10.3 400
GR Greece 39 23 500
GS South Georgia -54.4 -36.7 700
GT Guatemala 15.6 -90.3 280
GU Guam 13.4 144.8 40
GW Guinea-Bissau 12 -15 200
GY Guyana 5 -59 480
HK Hong Kong 22.3 114.2 50
HM Heard Island and McDonald Islands -53 73.5 60
HN Honduras 14.8 -86.5 370
HR Croatia 45 16.5 300
HT Haiti 19 -72.7 200
HU Hungary 47.2 19.4 280
ID Indonesia -2.5 118 2700
IE Ireland 53.2 -8 270
IL Israel 31.4 35 250
IM Isle of Man 54.2 -4.5 40
IN India 22 79.5 1800
IO British Indian Ocean Territory -7 72 250
IQ Iraq 33 43.7 600
IR Iran 32.5 54 1200
IS Iceland 65 -18.5 320
IT Italy 42.5 12.5 700
JE Jersey 49.2 -2.1 20
JM Jamaica 18.1 -77.3 130
JO Jordan 31.2 36.5 280
JP Japan 36.5 138 1800
KE Kenya 0.5 38 600
KG Kyrgyzstan 41.5 74.5 480
KH Cambodia 12.7 105 320
KI Kiribati 1 -170 3200
KM Comoros -12 43.8 120
KN Saint Kitts and Nevis 17.3 -62.7 30
KP North Korea 40 127 400
KR South Korea 36.4 128 400
KW Kuwait 29.3 47.6 130
KY Cayman Islands 19.4 -80.8 120
KZ Kazakhstan 48 67 1600
LA Laos 18.5 104 560
LB Lebanon 33.9 35.9 120
LC Saint Lucia 13.9 -61 30
LI Liechtenstein 47.2 9.5 20
LK Sri Lanka 7.6 80.7 250
LR Liberia 6.5 -9.3 330
LS Lesotho -29.5 28.2 150
LT Lithuania 55.3 23.9 220
LU Luxembourg 49.8 6.1 50
LV Latvia 56.9 24.9 250
LY Libya 27 17.5 1100
MA Morocco 31 -7 1000
MC Monaco 43.7 7.4 10
MD Moldova 47.2 28.5 210
ME Montenegro 42.8 19.2 110
MF Saint Martin 18.1 -63.1 10
MG Madagascar -19.5 46.7 820
MH Marshall Islands 8 169 800
MK North Macedonia 41.6 21.7 120
ML Mali 17 -4 1000
MM Myanmar 20 96.5 1100
MN Mongolia 46.8 103 1200
MO Macao 22.2 113.5 20
MP Northern Mariana Islands 16 145.7 400
MQ Martinique 14.6 -61 50
MR Mauritania 20 -10.5 800
MS Montserrat 16.7 -62.2 20
MT Malta 35.9 14.4 40
MU Mauritius -20.2 57.6 800
MV Maldives 3.5 73 500
MW Malawi -13.2 34.2 480
MX Mexico 23.5 -102 1700
MY Malaysia 3.5 109.5 1100
MZ Mozambique -17.5 35.5 1200
NA Namibia -22 17 850
NC New Caledonia -21.3 165.5 350
NE Niger 17 9 900
NF Norfolk Island -29 168 20
NG Nigeria 9.5 8 700
NI Nicaragua 12.9 -85 310
NL Netherlands 52.2 5.5 200
NO Norway 65 14 1600
NP Nepal 28.2 84 480
NR Nauru -0.5 166.9 10
NU Niue -19 -169.9 20
NZ New Zealand -41 173.5 1100
OM Oman 21 56.5 650
PA Panama 8.5 -80 350
PE Peru -9.5 -75 1200
PF French Polynesia -17 -146 1600
PG Papua New Guinea -6.5 146 1200
PH Philippines 12 122.5 1000
PK Pakistan 30 69.5 1000
PL Poland 52 19.3 400
PM Saint Pierre and Miquelon 46.9 -56.3 40
PN Pitcairn -24.4 -128.3 500
PR Puerto Rico 18.2 -66.4 150
PS Palestine 31.9 35.2 120
PT Portugal 38 -12 1700
PW Palau 7 134 400
PY Paraguay -23.3 -58 560
QA Qatar 25.3 51.2 100
RE Réunion -21.1 55.5 50
RO Romania 46 25 400
RS Serbia 44.2 20.9 280
RU Russia 60 90 4500
RW Rwanda -2 30 140
SA Saudi Arabia 24 45 1200
SB Solomon Islands -9 160 900
SC Seychelles -5 54 1200
SD Sudan 15.5 30.5 1100
SE Sweden 62.5 16.5 850
SG Singapore 1.35 103.8 40
SH Saint Helena -16 -5.7 2500
SI Slovenia 46.1 14.9 150
SJ Svalbard and Jan Mayen 78 16 1100
SK Slovakia 48.7 19.5 230
SL Sierra Leone 8.5 -11.8 200
SM San Marino 43.9 12.5 10
SN Senegal 14.4 -14.5 380
SO Somalia 5.5 46 1000
SR Suriname 4 -56 310
SS South Sudan 7.5 30 700
ST São Tomé and Príncipe 0.7 7 150
SV El Salvador 13.7 -88.9 140
SX Sint Maarten 18 -63.1 10
SY Syria 35 38.5 400
SZ Eswatini -26.5 31.5 110
TC Turks and Caicos Islands 21.7 -71.7 100
TD Chad 15.5 18.7 950
TF French Southern Territories -45 65 2500
TG Togo 8.5 1 300
TH Thailand 14 101 950
TJ Tajikistan 38.8 71 420
TK Tokelau -9.2 -171.8 120
TL Timor-Leste -8.8 125.8 200
TM Turkmenistan 39 59.5 650
TN Tunisia 34 9.5 450
TO Tonga -20 -175 600
TR Türkiye 39 35.2 850
TT Trinidad and Tobago 10.5 -61.2 120
TV Tuvalu -8 178 450
TW Taiwan 23.7 121 300
TZ Tanzania -6.3 35 750
UA Ukraine 48.8 31.4 750
UG Uganda 1.3 32.4 380
UM U.S. Outlying Islands 10 -170 4500
US United States 40 -100 2900
UY Uruguay -32.8 -56 340
UZ Uzbekistan 41.5 64 800
VA Vatican City 41.9 12.45 10
VC Saint Vincent and the Grenadines 13 -61.2 70
VE Venezuela 7.5 -66 900
VG British Virgin Islands 18.5 -64.5 60
VI U.S. Virgin Islands 18 -64.8 70
VN Vietnam 16.5 106.5 900
VU Vanuatu -16.5 167.7 500
WF Wallis and Futuna -13.8 -177 150
WS Samoa -13.7 -172.2 100
XK Kosovo 42.6 20.9 90
YE Yemen 15.5 47.5 700
YT Mayotte -12.8 45.2 40
ZA South Africa -29 25 900
ZM Zambia -13.5 28 750
ZW Zimbabwe -19 29.8 450
"""


def _parsed() -> dict[str, tuple[str, Position]]:
    found: dict[str, tuple[str, Position]] = {}
    for line in _TABLE.strip().splitlines():
        code, rest = line.split(" ", 1)
        name, latitude, longitude, radius = rest.rsplit(" ", 3)
        found[code] = name, Position(float(latitude), float(longitude), float(radius), name)
    return found


@lru_cache(maxsize=1)
def _countries() -> dict[str, tuple[str, Position]]:
    return _parsed()


def position_of(country: str | None) -> Position | None:
    """About where the country of that code is, or ``None`` for what is none."""
    found = _countries().get(country or "")
    return None if found is None else found[1]


def name_of(country: str | None) -> str | None:
    """The name of the country of that code, the code itself where it is not known, ``None`` for ``None``."""
    found = _countries().get(country or "")
    return country if found is None else found[0]


def codes() -> frozenset[str]:
    """Every code that is known."""
    return frozenset(_countries())
