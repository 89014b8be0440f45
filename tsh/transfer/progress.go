package transfer

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/tsh/terminal"
)

// redraw is how often a progress line is drawn again.
const redraw = 200 * time.Millisecond

// Progress shows one line for each file on a terminal.
type Progress struct {
	out      io.Writer
	terminal *os.File
}

// NewProgress returns a Progress that writes to out and takes the width of its lines from terminal. It shows
// nothing if terminal is nil.
func NewProgress(out io.Writer, terminal *os.File) *Progress {
	return &Progress{out: out, terminal: terminal}
}

// bar is the progress line of one file. If there is a terminal, start starts a goroutine that draws the line.
// The caller must call end, which stops the goroutine and waits for it.
type bar struct {
	*Progress
	name        string
	size        int64 // bytes; 0 if unknown
	transferred atomic.Int64
	began       time.Time
	stop        chan struct{} // closed by end
	stopped     chan struct{} // closed once the goroutine has ended
}

// start begins the progress line of the file name. size is its size in bytes, or 0 if that is not known. The
// caller counts bytes by reading or writing through bar.reader or bar.writer.
func (p *Progress) start(name string, size int64) *bar {
	b := &bar{
		Progress: p,
		name:     terminal.Clean(path.Base(name)),
		size:     size,
		began:    time.Now(),
		stop:     make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	if p.terminal == nil {
		close(b.stopped)
		return b
	}
	go b.run()
	return b
}

// run draws the line until end is called.
func (b *bar) run() {
	defer close(b.stopped)
	tick := time.NewTicker(redraw)
	defer tick.Stop()
	for {
		b.draw()
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
	}
}

// draw overwrites the current line of the terminal.
func (b *bar) draw() {
	width, _, ok := terminal.Size(b.terminal)
	if !ok || width <= 0 {
		width = 80
	}
	line := progressLine(b.name, b.transferred.Load(), b.size, time.Since(b.began), width-1)
	fmt.Fprintf(b.out, "\r%s\x1b[K", line)
}

// end draws the line a last time and ends it. Further calls do nothing.
func (b *bar) end() {
	select {
	case <-b.stop:
		return
	default:
	}
	close(b.stop)
	<-b.stopped
	if b.terminal != nil {
		b.draw()
		fmt.Fprintln(b.out)
	}
}

// progressLine returns "name 45% 12.3 MB 4.5 MB/s 0:03 left" in at most width columns; a long name loses its
// beginning. It leaves out the percentage and the time left if size is 0, which means unknown, and in the
// first half second the speed and the time left.
func progressLine(name string, transferred, size int64, elapsed time.Duration, width int) string {
	var tail strings.Builder
	if size > 0 {
		fmt.Fprintf(&tail, "  %3d%%", min(100, transferred*100/size))
	}
	fmt.Fprintf(&tail, "  %9s", sizeText(transferred))
	if seconds := elapsed.Seconds(); seconds > 0.5 || transferred == size {
		rate := float64(transferred) / max(seconds, 1e-3) // bytes a second
		fmt.Fprintf(&tail, "  %9s/s", sizeText(int64(rate)))
		if left := size - transferred; left > 0 && rate > 0 {
			timeLeft := time.Duration(float64(left) / rate * float64(time.Second)).Round(time.Second)
			fmt.Fprintf(&tail, "  %s left", durationText(timeLeft))
		}
	}
	// Names shorter than alignedWidth are filled with spaces, so that the columns of several lines align.
	const minNameWidth, alignedWidth = 8, 24
	nameWidth := max(minNameWidth, width-tail.Len())
	if runes := []rune(name); len(runes) > nameWidth {
		name = "…" + string(runes[len(runes)-nameWidth+1:])
	}
	padding := max(0, min(nameWidth, alignedWidth)-len([]rune(name)))
	return name + strings.Repeat(" ", padding) + tail.String()
}

// durationText is h:mm:ss, or m:ss below an hour.
func durationText(d time.Duration) string {
	if h := int(d.Hours()); h > 0 {
		return fmt.Sprintf("%d:%02d:%02d", h, int(d.Minutes())%60, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// sizeText is a size in SI units: powers of 1000 bytes.
func sizeText(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f := float64(n)
	for _, unit := range []string{"kB", "MB", "GB", "TB"} {
		if f /= 1000; f < 1000 || unit == "TB" {
			return fmt.Sprintf("%.1f %s", f, unit)
		}
	}
	return ""
}

// countingStream reads from r or writes to w, and counts the bytes in bar. When ctx has ended, it returns the
// error of ctx instead. bar.reader sets r, and bar.writer sets w.
type countingStream struct {
	ctx      context.Context
	bar      *bar
	r        io.Reader
	w        io.Writer
	writeErr error // the last error of w; after a copy it says that the destination failed, not the source
}

func (b *bar) reader(ctx context.Context, r io.Reader) *countingStream {
	return &countingStream{ctx: ctx, bar: b, r: r}
}

func (b *bar) writer(ctx context.Context, w io.Writer) *countingStream {
	return &countingStream{ctx: ctx, bar: b, w: w}
}

func (c *countingStream) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.bar.transferred.Add(int64(n))
	return n, err
}

func (c *countingStream) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.bar.transferred.Add(int64(n))
	if err != nil {
		c.writeErr = err
	}
	return n, err
}
