// When this page's session ends (signed out on another device, say), the server closes the socket with 4401.
let leaving = false;
addEventListener("beforeunload", () => (leaving = true));

const socket = new WebSocket(location.origin.replace("http", "ws") + "/open-page");
socket.addEventListener("close", ({ code, reason }) => {
  if (code === 4401 && !leaving) location.assign(reason === "logout" ? "/sign-in?bye=1" : "/sign-in");
});
