//go:build integration

package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/threshold-access/threshold/integration/harness"
)

// What the agent may take, by the design's numbers.
const (
	mb = 1 << 20

	maxBinary      = 15 * mb
	maxAtRest      = 13 * mb
	maxOneSession  = 15 * mb
	maxEachFurther = mb / 2
	maxUnderLoad   = 25 * mb // at any moment, helper processes counted

	manySessions = 20
	eachBytes    = 64 * mb
)

// Nobody minds an agent that is so small: on disk, at rest, with people on it, and while they move a lot.
func TestTheAgentIsSmall(t *testing.T) {
	size, err := os.Stat(harness.Bin(t, "threshold-node"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, "binary", size.Size(), maxBinary)

	w := newMemoryFixture(t)
	w.settle()
	rest := w.resident()
	report(t, "at rest", rest, maxAtRest)

	first := w.openIdleSessions(1)
	one := w.resident()
	report(t, "with one session", one, maxOneSession)
	first = append(first, w.openIdleSessions(manySessions)...)
	many := w.resident()
	report(t, "each further idle session", (many-one)/manySessions, maxEachFurther)
	for _, end := range first {
		end()
	}

	stop := w.watch()
	w.transferMany(manySessions)
	report(t, "20 sessions of 64 MB at once, half up and half down, at the peak", stop(), maxUnderLoad)

	w.restart()
	stop = w.watch()
	w.transferFile()
	report(t, "64 MB by sftp, up and down, at the peak", stop(), maxUnderLoad)
}

// report notes a figure, and fails the story if it is more than it may be.
func report(t *testing.T, what string, got, most int64) {
	t.Helper()
	t.Logf("%-70s %6.2f MB (limit %.1f)", what, float64(got)/mb, float64(most)/mb)
	if got >= most {
		t.Errorf("%s: got %.2f MB, want less than %.1f", what, float64(got)/mb, float64(most)/mb)
	}
}

// memoryFixture is an agent in a process of its own, and somebody who uses it.
type memoryFixture struct {
	*testing.T
	client *harness.Client
	node   *harness.Node
	proxy  string
	token  string
}

func newMemoryFixture(t *testing.T) *memoryFixture {
	t.Helper()
	proxy := harness.FreeAddr(t, "127.0.0.1")
	s := harness.StartServer(t, proxy, harness.StartProvider(t, "127.0.0.1", proxy), "")
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	w := &memoryFixture{T: t, client: c, proxy: proxy, token: c.Token("node")}
	w.node = harness.StartNode(t, proxy, w.token, "small")
	c.Until(func(out string) bool { return strings.Contains(out, "small") }, "ls", "-q")
	return w
}

// restart gives an agent without a past.
func (w *memoryFixture) restart() {
	w.Helper()
	_ = w.node.Process.Stop()
	w.node = harness.StartNodeIn(w.T, w.node.Dir, w.proxy, w.token, "small")
	w.client.Until(func(out string) bool { return out == "there\n" }, "ssh", "small", "echo there")
}

// pid of the agent.
func (w *memoryFixture) pid() int { return w.node.Process.Cmd.Process.Pid }

// settle waits until what the agent takes is no longer less than just before.
func (w *memoryFixture) settle() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for least, calm := statusBytes(w.pid(), "VmRSS"), 0; calm < 3; {
		<-tick.C
		now := statusBytes(w.pid(), "VmRSS")
		if calm++; now < least {
			least, calm = now, 0
		}
	}
}

// resident is what the agent takes now, with its helpers.
func (w *memoryFixture) resident() int64 {
	sum := statusBytes(w.pid(), "VmRSS")
	for _, p := range helpers(w.pid()) {
		sum += statusBytes(p, "RssAnon")
	}
	return sum
}

// openIdleSessions opens sessions with a terminal in which nothing happens.
func (w *memoryFixture) openIdleSessions(n int) (ends []func()) {
	w.Helper()
	for range n {
		cmd := w.client.Command("ssh", "-t", "small", "echo on; exec sleep 1000")
		p := harness.StartCmd(w.T, cmd)
		p.WaitFor("on")
		ends = append(ends, func() { _ = p.Stop() })
	}
	return ends
}

// transferMany has many sessions at once, half of which send the node as many bytes as the others get from
// it.
func (w *memoryFixture) transferMany(sessions int) {
	w.Helper()
	want := digest(zeros(eachBytes))
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			var sum string
			var err error
			if i%2 == 0 {
				sum, err = w.upload()
			} else {
				sum, err = w.download()
			}
			if err != nil || sum != want {
				w.Errorf("session %d: got %v and digest %q, want that of %d zeros", i, err, sum, eachBytes)
			}
		})
	}
	all.Wait()
}

// upload sends bytes to a program on the node, and returns their digest as made there.
func (w *memoryFixture) upload() (digest string, err error) {
	cmd := w.client.Command("ssh", "-T", "small", "sha256sum -b")
	cmd.Stdin, cmd.Stderr = zeros(eachBytes), os.Stderr
	out, err := cmd.Output()
	digest, _, _ = strings.Cut(string(out), " ")
	return digest, err
}

// download gets bytes from a program on the node, and returns their digest as made here.
func (w *memoryFixture) download() (digest string, err error) {
	cmd := w.client.Command("ssh", "-T", "small", fmt.Sprintf("head -c %d /dev/zero", eachBytes))
	got := sha256.New()
	cmd.Stdout, cmd.Stderr = got, os.Stderr
	err = cmd.Run()
	return fmt.Sprintf("%x", got.Sum(nil)), err
}

// transferFile sends a file by sftp, and gets it back.
func (w *memoryFixture) transferFile() {
	w.Helper()
	dir := w.TempDir()
	from, there, back := filepath.Join(dir, "from"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	f, err := os.Create(from)
	if err == nil {
		err = errors.Join(f.Truncate(eachBytes), f.Close())
	}
	if err != nil {
		w.Fatal(err)
	}
	w.client.Tsh("scp", "-q", from, "small:"+there).OK(w.T)
	w.client.Tsh("scp", "-q", "small:"+there, back).OK(w.T)
}

// watch looks at the agent and its helpers all the time, until the function that it returns tells the most
// that they took together. A helper runs the agent's own program, whose pages the kernel keeps once: of it
// counts what is its own.
func (w *memoryFixture) watch() (stop func() int64) {
	quit, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		var most int64
		for {
			sum := statusBytes(w.pid(), "VmHWM")
			for _, p := range helpers(w.pid()) {
				sum += statusBytes(p, "RssAnon")
			}
			most = max(most, sum)
			select {
			case <-tick.C:
			case <-quit:
				peak <- most
				return
			}
		}
	}()
	return func() int64 {
		close(quit)
		most := <-peak
		w.Logf("of which the agent itself: %.2f MB", float64(statusBytes(w.pid(), "VmHWM"))/mb)
		return most
	}
}

// statusBytes is a field of /proc/PID/status in bytes; 0 for a process that has ended.
func statusBytes(pid int, field string) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// helpers are the children in which the agent's own program runs on: what they became by another exec is the
// user's.
func helpers(parent int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, s := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(s)
			if line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(
				string(line),
				"threshold-session\x00",
			) {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

func zeros(n int64) io.Reader { return io.LimitReader(zeroReader{}, n) }

type zeroReader struct{}

func (zeroReader) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func digest(r io.Reader) string {
	h := sha256.New()
	_, _ = io.Copy(h, r) // neither fails
	return fmt.Sprintf("%x", h.Sum(nil))
}
