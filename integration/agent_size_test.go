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

// What the agent may use at most.
const (
	mb = 1 << 20

	maxBinary      = 15 * mb
	maxAtRest      = 13 * mb
	maxOneSession  = 15 * mb
	maxEachFurther = mb / 2
	maxUnderLoad   = 25 * mb // at any moment, with its helper processes

	manySessions = 20
	eachBytes    = 64 * mb
)

// The agent needs little space on disk, and little memory when idle, with sessions, and during large
// transfers.
func TestTheAgentIsSmall(t *testing.T) {
	size, err := os.Stat(harness.Bin(t, "threshold-node"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, "program file", size.Size(), maxBinary)

	f := newMemoryFixture(t)
	f.settle()
	idle := f.resident()
	report(t, "idle", idle, maxAtRest)

	closers := f.openIdleSessions(1)
	one := f.resident()
	report(t, "with one session", one, maxOneSession)
	closers = append(closers, f.openIdleSessions(manySessions)...)
	many := f.resident()
	report(t, "each further idle session", (many-one)/manySessions, maxEachFurther)
	for _, closeSession := range closers {
		closeSession()
	}

	stop := f.watch()
	f.transferMany(manySessions)
	report(t, "20 sessions of 64 MB at once, half up and half down, at the peak", stop(), maxUnderLoad)

	f.restart()
	stop = f.watch()
	f.transferFile()
	report(t, "64 MB by sftp, up and down, at the peak", stop(), maxUnderLoad)
}

// report logs a figure, and fails the test if it is not below the limit.
func report(t *testing.T, what string, got, most int64) {
	t.Helper()
	t.Logf("%-70s %6.2f MB (limit %.1f)", what, float64(got)/mb, float64(most)/mb)
	if got >= most {
		t.Errorf("%s: got %.2f MB, want less than %.1f", what, float64(got)/mb, float64(most)/mb)
	}
}

// memoryFixture is an agent in a process of its own, and a user's client.
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
	f := &memoryFixture{T: t, client: c, proxy: proxy, token: c.Token("node")}
	f.node = harness.StartNode(t, proxy, f.token, "small")
	c.Until(func(out string) bool { return strings.Contains(out, "small") }, "ls", "-q")
	return f
}

// restart replaces the agent by a new process, whose peak is zero.
func (f *memoryFixture) restart() {
	f.Helper()
	_ = f.node.Process.Stop()
	f.node = harness.StartNodeIn(f.T, f.node.Dir, f.proxy, f.token, "small")
	f.client.Until(func(out string) bool { return out == "there\n" }, "ssh", "small", "echo there")
}

// pid is the process ID of the agent.
func (f *memoryFixture) pid() int { return f.node.Process.Cmd.Process.Pid }

// settle waits until the agent's memory has not shrunk for three seconds.
func (f *memoryFixture) settle() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for least, calm := statusBytes(f.pid(), "VmRSS"), 0; calm < 3; {
		<-tick.C
		now := statusBytes(f.pid(), "VmRSS")
		if calm++; now < least {
			least, calm = now, 0
		}
	}
}

// resident is the memory of the agent and its helpers now.
func (f *memoryFixture) resident() int64 {
	sum := statusBytes(f.pid(), "VmRSS")
	for _, p := range helpers(f.pid()) {
		sum += statusBytes(p, "RssAnon")
	}
	return sum
}

// openIdleSessions opens sessions with a terminal in which nothing happens, and returns what ends them.
func (f *memoryFixture) openIdleSessions(n int) (closers []func()) {
	f.Helper()
	for range n {
		cmd := f.client.Command("ssh", "-t", "small", "echo on; exec sleep 1000")
		p := harness.StartCmd(f.T, cmd)
		p.WaitFor("on")
		closers = append(closers, func() { _ = p.Stop() })
	}
	return closers
}

// transferMany runs sessions at once, half of which upload eachBytes to the node while the others download
// them.
func (f *memoryFixture) transferMany(sessions int) {
	f.Helper()
	want := digest(zeros(eachBytes))
	var all sync.WaitGroup
	for i := range sessions {
		all.Go(func() {
			var sum string
			var err error
			if i%2 == 0 {
				sum, err = f.upload()
			} else {
				sum, err = f.download()
			}
			if err != nil || sum != want {
				f.Errorf("session %d: got %v and digest %q, want that of %d zeros", i, err, sum, eachBytes)
			}
		})
	}
	all.Wait()
}

// upload sends bytes to a program on the node, and returns the digest that it made.
func (f *memoryFixture) upload() (digest string, err error) {
	cmd := f.client.Command("ssh", "-T", "small", "sha256sum -b")
	cmd.Stdin, cmd.Stderr = zeros(eachBytes), os.Stderr
	out, err := cmd.Output()
	digest, _, _ = strings.Cut(string(out), " ")
	return digest, err
}

// download gets bytes from a program on the node, and returns the digest of what arrived.
func (f *memoryFixture) download() (digest string, err error) {
	cmd := f.client.Command("ssh", "-T", "small", fmt.Sprintf("head -c %d /dev/zero", eachBytes))
	got := sha256.New()
	cmd.Stdout, cmd.Stderr = got, os.Stderr
	err = cmd.Run()
	return fmt.Sprintf("%x", got.Sum(nil)), err
}

// transferFile copies a file to the node and back with sftp.
func (f *memoryFixture) transferFile() {
	f.Helper()
	dir := f.TempDir()
	from, there, back := filepath.Join(dir, "from"), filepath.Join(dir, "there"), filepath.Join(dir, "back")
	file, err := os.Create(from)
	if err == nil {
		err = errors.Join(file.Truncate(eachBytes), file.Close())
	}
	if err != nil {
		f.Fatal(err)
	}
	f.client.Tsh("scp", "-q", from, "small:"+there).OK(f.T)
	f.client.Tsh("scp", "-q", "small:"+there, back).OK(f.T)
}

// watch measures the memory of the agent and its helpers all the time. The function that it returns ends
// this and returns the peak. Helpers run the agent's own program, whose pages the kernel shares between
// them, so only their anonymous memory counts.
func (f *memoryFixture) watch() (stop func() int64) {
	quit, peak := make(chan struct{}), make(chan int64)
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		var most int64
		for {
			sum := statusBytes(f.pid(), "VmHWM")
			for _, p := range helpers(f.pid()) {
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
		f.Logf("the agent alone: %.2f MB", float64(statusBytes(f.pid(), "VmHWM"))/mb)
		return most
	}
}

// statusBytes is a field of /proc/PID/status in bytes, and 0 for a process that has ended.
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

// helpers are the child processes that still run the agent's own program. After another exec they are the
// user's.
func helpers(parent int) (pids []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		for _, s := range strings.Fields(string(b)) {
			pid, _ := strconv.Atoi(s)
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if strings.HasPrefix(string(line), "threshold-session\x00") {
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
