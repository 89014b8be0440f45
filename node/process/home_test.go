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

// unresponsiveHome is a home on a file system whose program answers everything but the question whether
// somebody may enter (fuse(4)), as a file server does that is gone, or a program of the account's own. It
// returns which processes ask, and what ends the file system.
func unresponsiveHome(t *testing.T, acc account.Account) (home string, asking <-chan uint32, end func()) {
	t.Helper()
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	home = accounttest.Dir(t, acc)
	if err := unix.Mount("none", home, "fuse", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,allow_other", dev, acc.UID, acc.GID)); err != nil {
		t.Fatal(err)
	}
	entering, done := make(chan uint32, 16), make(chan struct{})
	end = sync.OnceFunc(func() {
		_ = unix.Unmount(home, unix.MNT_FORCE|unix.MNT_DETACH) // lets go of everyone who waits
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
			answerFuse(dev, buf[:n], acc, entering)
		}
	}()
	return home, entering, end
}

// answerFuse answers one request, of which the answers' layouts are those of linux/fuse.h.
func answerFuse(dev int, request []byte, acc account.Account, entering chan<- uint32) {
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
		entering <- le.Uint32(request[32:])
		return
	default:
		no := -int32(unix.ENOSYS)
		code = uint32(no)
	}
	out := le.AppendUint32(le.AppendUint32(nil, uint32(16+len(body))), code)
	_, _ = unix.Write(dev, append(append(out, request[8:16]...), body...))
}

// One account's home holds up nobody else. Between fork and exec a new process has the node's memory, and all
// of the node would wait for it.
func TestUnresponsiveHomeBlocksOnlyItsOwnSession(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root mounts, and starts programs for others
	}
	acc := accounttest.Other(t)
	for kind, want := range map[process.Kind]string{process.Exec: "/\n", process.SFTP: ""} {
		home, asking, end := unresponsiveHome(t, acc)
		defer end()
		stuck := acc
		stuck.Home = home
		out := make(chan string, 1)
		go func() { out <- output(stuck, process.Spec{Kind: kind, Command: "pwd"}) }()
		select {
		case pid := <-asking:
			if argv, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil ||
				!strings.HasPrefix(string(argv), "threshold-session\x00") {
				t.Fatalf("%s: got %q, %v at the door of the home, want a process of its own", kind, argv, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: nobody entered the home", kind)
		}
		runtime.GC() // waits for every thread of ours
		if got := output(acc, process.Spec{Kind: process.Exec, Command: "echo in"}); got != "in\n" {
			t.Errorf("%s: got %q beside it, want another session to run", kind, got)
		}
		end()
		if got := <-out; got != want {
			t.Errorf("%s: got %q, want a start in / once the home was gone", kind, got)
		}
	}
}

// output is what a program prints.
func output(acc account.Account, s process.Spec) string {
	p, err := process.Start(account.Local(), acc, s)
	if err != nil {
		return err.Error()
	}
	var out bytes.Buffer
	p.Run(context.Background(), process.Streams{In: strings.NewReader(""), Out: &out, Err: io.Discard})
	return out.String()
}
