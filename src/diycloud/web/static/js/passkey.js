// Passkeys: asks the browser for what the server wants signed, and sends the answer with the form.
// Without WebAuthn, or at another address than the portal's own, the form stays hidden or says where it works.
const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer))).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

export function start(forms) {
  if (!window.PublicKeyCredential || !navigator.credentials) return;
  for (const words of document.querySelectorAll("[data-passkey-else]")) words.hidden = true;
  for (const form of forms) prepare(form);
}

function prepare(form) {
  const says = form.querySelector("[data-passkey-says]");
  const say = (what) => { says.textContent = what; says.hidden = !what; };
  form.hidden = false;
  if (location.origin !== form.dataset.origin) {
    form.querySelector("button").disabled = true;
    say(`Passkeys work at ${form.dataset.origin} only.`);
    return;
  }
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.dataset.asking) return;
    form.dataset.asking = "yes";
    say("");
    try {
      await answer(form);
    } catch (error) {
      say(error.name === "InvalidStateError" ? "This device has a passkey for your account already."
        : error.name === "NotAllowedError" ? "Nothing was chosen, or it took too long. Try again." : "The browser could not do it. Try again.");
    } finally {
      delete form.dataset.asking;
    }
  });
}

async function answer(form) {
  const field = form.elements.credential ?? form.elements.passkey;
  const sent = new URLSearchParams({ csrf: form.elements.csrf.value, second: "second" in form.dataset ? "yes" : "" });
  const reply = await fetch(form.dataset.options, { method: "POST", body: sent });
  if (!reply.ok || !reply.headers.get("content-type")?.startsWith("application/json")) {
    location.reload();  // signed out, or to be asked who it is: the page itself says so
    return;
  }
  const options = await reply.json();
  const made = form.dataset.passkey === "create"
    ? await navigator.credentials.create({ publicKey: forCreation(options) })
    : await navigator.credentials.get({ publicKey: forRequest(options) });
  field.value = JSON.stringify(asJson(made));
  form.submit();
}

const known = (list) => (list ?? []).map((one) => ({ ...one, id: bytes(one.id) }));
const forCreation = (o) => ({
  ...o, challenge: bytes(o.challenge), user: { ...o.user, id: bytes(o.user.id) }, excludeCredentials: known(o.excludeCredentials),
});
const forRequest = (o) => ({ ...o, challenge: bytes(o.challenge), allowCredentials: known(o.allowCredentials) });

function asJson(made) {
  const from = made.response;
  const response = { clientDataJSON: text(from.clientDataJSON) };
  if (from.attestationObject) {
    response.attestationObject = text(from.attestationObject);
    response.transports = from.getTransports?.() ?? [];
  } else {
    response.authenticatorData = text(from.authenticatorData);
    response.signature = text(from.signature);
    if (from.userHandle) response.userHandle = text(from.userHandle);
  }
  return { id: made.id, rawId: text(made.rawId), type: made.type, response, clientExtensionResults: made.getClientExtensionResults() };
}
