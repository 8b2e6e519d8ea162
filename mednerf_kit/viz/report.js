for (const slider of document.querySelectorAll('.slider input')) {
  const names = slider.dataset.names.split('|');
  slider.addEventListener('input', () => {
    const k = Number(slider.value);
    slider.parentElement.querySelector('output').textContent = names[k];
    for (const frame of slider.closest('.scrub').querySelectorAll('.frame')) {
      const columns = Number(frame.dataset.columns), rows = Number(frame.dataset.rows);
      const x = k % columns / (columns - 1), y = Math.floor(k / columns) / Math.max(rows - 1, 1);
      frame.style.backgroundPosition = `${100 * x}% ${100 * y}%`;
    }
  });
}
