package tsh

import (
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// redraw is how often a progress line changes.
const redraw = 200 * time.Millisecond

// meter shows transfers on a terminal, one line each. Without a terminal, or with -q, it shows nothing.
type meter struct {
	out  io.Writer
	file *os.File // nil: show nothing
}

func (a *app) newMeter(quiet bool) *meter {
	f, ok := terminal(a.Stderr)
	if !ok || quiet {
		f = nil
	}
	return &meter{out: a.Stderr, file: f}
}

// bar is one file's progress.
type bar struct {
	*meter
	name  string
	size  int64
	moved atomic.Int64
	began time.Time
	stop  chan struct{}
	ended chan struct{}
}

func (m *meter) begin(name string, size int64) *bar {
	b := &bar{
		meter: m,
		name:  clean(path.Base(name)),
		size:  size,
		began: time.Now(),
		stop:  make(chan struct{}),
		ended: make(chan struct{}),
	}
	if m.file == nil {
		close(b.ended)
		return b
	}
	go b.run()
	return b
}

func (b *bar) run() {
	defer close(b.ended)
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

func (b *bar) draw() {
	width, _, err := term.GetSize(int(b.file.Fd()))
	if err != nil || width <= 0 {
		width = 80
	}
	fmt.Fprintf(
		b.out,
		"\r%s\x1b[K",
		progressLine(b.name, b.moved.Load(), b.size, time.Since(b.began), width-1),
	)
}

// end stops the line. It is safe after done.
func (b *bar) end() {
	select {
	case <-b.stop:
		return
	default:
	}
	close(b.stop)
	<-b.ended
	if b.file != nil {
		b.draw()
		fmt.Fprintln(b.out)
	}
}

// done ends the line of a file that has arrived.
func (b *bar) done() { b.end() }

// progressLine is "name  45%  12.3 MB  4.5 MB/s  0:03 left" in at most width columns.
func progressLine(name string, moved, size int64, spent time.Duration, width int) string {
	var tail strings.Builder
	if size > 0 {
		fmt.Fprintf(&tail, "  %3d%%", min(100, moved*100/size))
	}
	fmt.Fprintf(&tail, "  %9s", sizeText(moved))
	if secs := spent.Seconds(); secs > 0.5 || moved == size {
		rate := float64(moved) / max(secs, 1e-3)
		fmt.Fprintf(&tail, "  %9s/s", sizeText(int64(rate)))
		if left := size - moved; left > 0 && rate > 0 {
			eta := time.Duration(float64(left) / rate * float64(time.Second)).Round(time.Second)
			fmt.Fprintf(&tail, "  %s left", clock(eta))
		}
	}
	room := max(8, width-tail.Len())
	if runes := []rune(name); len(runes) > room {
		name = "…" + string(runes[len(runes)-room+1:])
	}
	return name + strings.Repeat(" ", max(0, min(room, 24)-len([]rune(name)))) + tail.String()
}

func clock(d time.Duration) string {
	if h := int(d.Hours()); h > 0 {
		return fmt.Sprintf("%d:%02d:%02d", h, int(d.Minutes())%60, int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

// sizeText is a size in powers of 1000, as disks and networks are sold.
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

// counted passes bytes on, counts them, and stops when ctx ends. failed is the destination's own error, told
// apart from the source's.
type counted struct {
	ctx    context.Context
	bar    *bar
	r      io.Reader
	w      io.Writer
	failed error
}

func (b *bar) reader(ctx context.Context, r io.Reader) *counted {
	return &counted{ctx: ctx, bar: b, r: r}
}
func (b *bar) writer(ctx context.Context, w io.Writer) *counted {
	return &counted{ctx: ctx, bar: b, w: w}
}

func (c *counted) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.bar.moved.Add(int64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := c.w.Write(p)
	c.bar.moved.Add(int64(n))
	if err != nil {
		c.failed = err
	}
	return n, err
}
