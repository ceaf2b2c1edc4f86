// A file can be dropped on the box as well as chosen.
export function start(boxes) {
  for (const box of boxes) {
    const input = box.querySelector("input[type=file]");
    for (const type of ["dragenter", "dragover"]) {
      box.addEventListener(type, (event) => { event.preventDefault(); box.classList.add("over"); });
    }
    for (const type of ["dragleave", "drop"]) box.addEventListener(type, () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => {
      event.preventDefault();
      if (event.dataTransfer.files.length) input.files = event.dataTransfer.files;
    });
  }
}
