"use strict";
const told = document.getElementById("live");
function put(id, html) {
  const at = document.getElementById(id);
  const open = new Set([...at.querySelectorAll("details[open]")].map(d => d.id));
  const focused = at.contains(document.activeElement) ? document.activeElement.id : "";
  at.innerHTML = html;
  for (const d of at.querySelectorAll("details")) d.open = open.has(d.id);
  if (focused) (document.getElementById(focused) || at).focus({preventScroll: true});
}
function listen() {
  const events = new EventSource("events");
  events.onopen = () => { told.textContent = "live"; };
  events.onmessage = event => {
    const parts = JSON.parse(event.data);
    for (const id in parts) put(id, parts[id]);
    if (parts.latest && parts.latest.includes("<li>")) document.getElementById("start")?.remove();
  };
  events.onerror = () => {
    told.textContent = "not connected, trying again";
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 5000);
  };
}
listen();
