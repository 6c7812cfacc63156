// Moves the line over the track with the clip, and the clip to where the track is clicked. `element` is the report.
const follow = (video) => {
  const head = element.querySelector('.aver-head'), track = element.querySelector('.aver-track');
  if (head && track) head.style.left = Math.min(100, 100 * video.currentTime / track.dataset.seconds) + '%';
};
const run = (video) => { follow(video); if (!video.paused) requestAnimationFrame(() => run(video)); };
element.addEventListener('play', (event) => run(event.target), true);
element.addEventListener('seeked', (event) => follow(event.target), true);
element.addEventListener('click', (event) => {
  const track = event.target.closest('.aver-track'), video = element.querySelector('video');
  if (!track || !video) return;
  const box = track.getBoundingClientRect();
  video.currentTime = track.dataset.seconds * (event.clientX - box.left) / box.width;
});
