package process_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/process"
)

// unresponsiveHome mounts a home on a FUSE file system (fuse(4)) that never answers whether a process may
// enter it, like a file server that is gone or a program of the account's own. entering receives the ids of
// the processes that ask; end unmounts the file system.
func unresponsiveHome(t *testing.T, acc account.Account) (home string, entering <-chan uint32, end func()) {
	t.Helper()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	home = accounttest.Dir(t, acc)
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", dev, acc.UID, acc.GID)
	if err := unix.Mount("none", home, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		t.Fatal(err)
	}
	asking, done := make(chan uint32, 16), make(chan struct{})
	end = sync.OnceFunc(func() {
		_ = unix.Unmount(home, unix.MNT_FORCE|unix.MNT_DETACH) // fails all requests that wait
		<-done
	})
	go func() {
		defer close(done)
		defer unix.Close(dev)
		for buf := make([]byte, 1<<20); ; {
			n, err := unix.Read(dev, buf)
			if err == unix.EINTR || err == unix.ENOENT {
				continue
			}
			if err != nil {
				return // unmounted
			}
			answerFuse(dev, buf[:n], acc, asking)
		}
	}()
	return home, asking, end
}

// answerFuse answers one request. The layouts are those of linux/fuse.h.
func answerFuse(dev int, request []byte, acc account.Account, asking chan<- uint32) {
	const getattr, statfs, initialize, access = 3, 17, 26, 34
	le := binary.LittleEndian
	body, code := []byte(nil), uint32(0)
	switch le.Uint32(request[4:]) {
	case initialize:
		body = make([]byte, 64)
		le.PutUint32(body, 7)
		le.PutUint32(body[4:], 31)
	case getattr:
		body = make([]byte, 104)
		le.PutUint64(body[16:], 1)
		le.PutUint32(body[76:], unix.S_IFDIR|0o755)
		le.PutUint32(body[84:], acc.UID)
	case statfs:
		body = make([]byte, 80)
	case access:
		asking <- le.Uint32(request[32:])
		return
	default:
		errno := -int32(unix.ENOSYS)
		code = uint32(errno)
	}
	out := le.AppendUint32(le.AppendUint32(nil, uint32(16+len(body))), code)
	_, _ = unix.Write(dev, append(append(out, request[8:16]...), body...))
}

// The home of one account must not block other sessions. Between fork and exec a new process shares the
// agent's memory, and the whole agent would wait for it.
func TestUnresponsiveHomeBlocksOnlyItsOwnSession(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root mounts, and starts programs for other accounts
	}
	acc := accounttest.Other(t)
	for kind, want := range map[process.Kind]string{process.Exec: "/\n", process.SFTP: ""} {
		home, entering, end := unresponsiveHome(t, acc)
		defer end()
		stuck := acc
		stuck.Home = home
		out := make(chan string, 1)
		go func() { out <- output(stuck, process.Spec{Kind: kind, Command: "pwd"}) }()
		select {
		case pid := <-entering:
			argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			if err != nil || !strings.HasPrefix(string(argv), "threshold-session\x00") {
				t.Fatalf("%s: got %q, %v entering the home, want a helper process", kind, argv, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: got no process entering the home", kind)
		}
		runtime.GC() // waits for all threads of this process
		if got := output(acc, command("echo in")); got != "in\n" {
			t.Errorf("%s: got %q from another session, want it to run", kind, got)
		}
		end()
		if got := <-out; got != want {
			t.Errorf("%s: got %q, want a start in / after the home was unmounted", kind, got)
		}
	}
}

// output runs a program and returns what it prints, or the error. It may be called from any goroutine.
func output(acc account.Account, s process.Spec) string {
	p, err := process.Start(account.Local(), acc, s)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	p.Run(context.Background(), process.Streams{In: strings.NewReader(""), Out: &out, Err: io.Discard})
	return out.String()
}
