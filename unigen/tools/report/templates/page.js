document.querySelectorAll('thead button').forEach(button => button.onclick = () => {
  const head = button.parentElement, table = head.closest('table'), column = head.cellIndex;
  const down = head.getAttribute('aria-sort') === 'ascending', body = table.tBodies[0];
  table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));
  head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const rows = [...body.rows], numeric = rows.some(row => row.cells[column].dataset.sort);
  rows.sort((left, right) => {
    const a = left.cells[column], b = right.cells[column];
    if (numeric && (!a.dataset.sort || !b.dataset.sort)) return (b.dataset.sort ? 1 : 0) - (a.dataset.sort ? 1 : 0);
    const order = numeric ? a.dataset.sort - b.dataset.sort
                          : a.textContent.localeCompare(b.textContent, undefined, {numeric: true});
    return down ? -order : order;
  });
  body.append(...rows);
});
document.querySelectorAll('.grids img').forEach(image => image.onclick = () =>
  image.closest('figure').classList.toggle('wide'));
document.querySelectorAll('.legend button').forEach(button => button.onclick = () => {
  const shown = button.getAttribute('aria-pressed') === 'false';
  button.setAttribute('aria-pressed', shown);
  document.querySelectorAll('.charts .arm' + button.dataset.arm).forEach(line => line.classList.toggle('off', !shown));
});

const gallery = document.querySelector('.gallery');
if (gallery) {
  const [task, left, right, steps, size] = ['task', 'left', 'right', 'steps', 'size'].map(id => gallery.querySelector('#' + id));
  const box = gallery.querySelector('.items'), drawn = [...box.children];
  const pixels = async image => {
    image.loading = 'eager';
    if (!image.complete) await new Promise(done => { image.onload = image.onerror = done; });
    if (!image.naturalWidth) throw new Error('no image');
    const canvas = document.createElement('canvas'), side = canvas.width = canvas.height = 32;
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.drawImage(image, 0, 0, side, side);
    return pen.getImageData(0, 0, side, side).data;
  };
  const newest = (item, arm) => new Map([...item.querySelectorAll(`.block[data-arm="${arm}"] .shots`)].map(
    line => [line.dataset.seed, line.querySelector('[data-last] img')]));
  const difference = async item => {  // root mean square over the newest images of the seeds that both arms have
    const a = newest(item, left.value), b = newest(item, right.value), found = [];
    for (const [seed, image] of a) if (image && b.get(seed)) try {
      const [x, y] = [await pixels(image), await pixels(b.get(seed))];
      found.push(x.reduce((sum, value, i) => sum + (value - y[i]) ** 2, 0) / x.length * 4 / 3);
    } catch (error) { continue; }  // an image that cannot be decoded
    return found.length ? Math.sqrt(found.reduce((sum, value) => sum + value) / found.length) : -1;
  };
  const arrange = async () => {
    const far = new Map();
    for (const item of drawn) {
      far.set(item, right.value === '' ? 0 : await difference(item));
      item.querySelector('output').value = right.value === '' ? '' :
        far.get(item) < 0 ? 'not in both arms' : `differ by ${far.get(item).toFixed(1)} of 255`;
    }
    box.append(...drawn.slice().sort((a, b) => far.get(b) - far.get(a)));
  };
  task.onchange = () => drawn.forEach(item => item.classList.toggle('off', task.value !== '' && item.dataset.task !== task.value));
  left.onchange = right.onchange = arrange;
  steps.onchange = () => { gallery.classList.remove('ends', 'last'); if (steps.value !== 'all') gallery.classList.add(steps.value); };
  size.oninput = () => gallery.style.setProperty('--size', size.value + 'px');
  gallery.querySelectorAll('img').forEach(image => image.onclick = () => image.classList.toggle('large'));
  steps.onchange();
}
