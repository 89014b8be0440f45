package asaccount_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/account/accounttest"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
)

func TestMain(m *testing.M) {
	if code, is := asaccount.RunHelper(); is {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

func newSockets(t *testing.T, acc account.Account) *asaccount.Sockets {
	t.Helper()
	s := asaccount.New(account.Local(), acc)
	t.Cleanup(s.Close)
	return s
}

// socketOwner returns the user id that the kernel has for the TCP socket between the two ports. The remote
// port of a listener is 0.
func socketOwner(t *testing.T, local, remote int) string {
	t.Helper()
	const localAddr, remoteAddr, state, uid = 1, 2, 3, 7 // fields of /proc/net/tcp
	const timeWait = "06"                                // a closed connection, which has no owner
	b, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > uid && f[state] != timeWait &&
			strings.HasSuffix(f[localAddr], fmt.Sprintf(":%04X", local)) &&
			strings.HasSuffix(f[remoteAddr], fmt.Sprintf(":%04X", remote)) {
			return f[uid]
		}
	}
	t.Fatalf("no socket has ports %d and %d", local, remote)
	return ""
}

func port(a net.Addr) int { return a.(*net.TCPAddr).Port }

// Not parallel: it checks the ids of all threads.
func TestTCPSocketsBelongToTheAccount(t *testing.T) {
	for _, acc := range []account.Account{accounttest.Other(t), accounttest.Own(t)} {
		sockets := newSockets(t, acc)
		listener, err := sockets.Listen(netip.MustParseAddrPort("127.0.0.1:0"))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		uid := strconv.Itoa(int(acc.UID))
		if got := socketOwner(t, port(listener.Addr()), 0); got != uid {
			t.Errorf("got a listener of user %s, want %s", got, uid)
		}
		for range 50 {
			c, err := sockets.Dial(t.Context(), netip.MustParseAddrPort(listener.Addr().String()))
			if err != nil {
				t.Fatal(err)
			}
			if got := socketOwner(t, port(c.LocalAddr()), port(listener.Addr())); got != uid {
				t.Errorf("got a connection of user %s, want %s", got, uid)
			}
			c.Close()
		}
	}
	tasks, _ := filepath.Glob("/proc/self/task/*/status")
	for _, file := range tasks {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Uid:" && f[4] != strconv.Itoa(os.Geteuid()) {
				t.Errorf("got a thread with %s, want no thread that kept an account's ids", line)
			}
		}
	}
}

func TestPrivilegedPortsNeedRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		return // the kernel makes the check
	}
	t.Parallel()
	privileged := netip.MustParseAddrPort("127.0.0.1:1023")
	if _, err := newSockets(t, accounttest.Other(t)).Listen(privileged); !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v, want permission denied", err)
	}
	ln, err := newSockets(t, accounttest.Own(t)).Listen(privileged)
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
}

func TestTCPDialErrors(t *testing.T) {
	t.Parallel()
	s := newSockets(t, accounttest.Other(t))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	if _, err := s.Dial(t.Context(), closed); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v, want connection refused", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if c, err := s.Dial(ctx, fullListener(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v from a listener that answers no connect, want the context's error", c, err)
	}
}

// fullListener returns the address of a listener that answers no connect, because its queue is full.
func fullListener(t *testing.T) netip.AddrPort {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	loopback := [4]byte{127, 0, 0, 1}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback}), unix.Listen(fd, 0))
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at := netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(sa.(*unix.SockaddrInet4).Port))
	for {
		c, err := net.DialTimeout("tcp", at.String(), 200*time.Millisecond)
		if err != nil {
			return at
		}
		t.Cleanup(func() { c.Close() })
	}
}

// serveCredentials serves a socket. It sends each client what the kernel says of its user id, and then an
// echo. wait waits for the end of the connections that were accepted.
func serveCredentials(t *testing.T, path string) (wait func()) {
	t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	raw, err := ln.SyscallConn()
	if err == nil {
		// Accepted sockets inherit it. After accept it would come too late for bytes that are there already.
		err = raw.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	go func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			conns.Go(func() { sendCredentials(c) })
		}
	}()
	return conns.Wait
}

// sendCredentials sends the user id of who connected (SO_PEERCRED) and of who sent the first bytes
// (SCM_CREDENTIALS).
func sendCredentials(c *net.UnixConn) {
	defer c.Close()
	raw, _ := c.SyscallConn()
	var peer *unix.Ucred
	_ = raw.Control(func(fd uintptr) {
		peer, _ = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	buf, oob := make([]byte, 64), make([]byte, 64)
	n, nOOB, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return
	}
	list, _ := unix.ParseSocketControlMessage(oob[:nOOB])
	sender, err := unix.ParseUnixCredentials(&list[0])
	if err != nil {
		return
	}
	fmt.Fprintf(c, "%d %d\n", peer.Uid, sender.Uid)
	_, _ = c.Write(buf[:n])
	_, _ = io.Copy(c, struct{ io.Reader }{c})
}

// Not parallel: it counts the descriptors of the process.
func TestUnixSocketsAreOpenedAsTheAccount(t *testing.T) {
	acc := accounttest.Other(t)
	sockets := newSockets(t, acc)
	dir := accounttest.Dir(t, acc)
	path := filepath.Join(dir, "open")
	wait := serveCredentials(t, path)
	if err := os.Chown(path, int(acc.UID), int(acc.GID)); err != nil {
		t.Fatal(err)
	}
	before := countDescriptors(t)
	for range 3 {
		c, err := sockets.DialUnix(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("0123456789abcdef", 1<<16)
		go func() {
			_, _ = io.WriteString(c, text)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		in := bufio.NewReader(c)
		line, err := in.ReadString('\n')
		if want := fmt.Sprintf("%d %d\n", acc.UID, acc.UID); err != nil || line != want {
			t.Errorf("got %q, %v, want the peer and the sender to be %q", line, err, want)
		}
		if back, err := io.ReadAll(in); err != nil || string(back) != text {
			t.Errorf("got %d bytes, %v, want the echo of all %d", len(back), err, len(text))
		}
		c.Close()
	}
	wait()
	const ofHelper = 3 // its control socket, its pidfd, and one for Go's poller
	if got := countDescriptors(t); got > before+ofHelper {
		t.Errorf("got %d descriptors, want at most %d after the connections are closed", got, before+ofHelper)
	}
	if _, err := sockets.DialUnix(t.Context(), filepath.Join(dir, "none")); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want no such file", err)
	}
	if os.Geteuid() != 0 {
		return
	}
	private := filepath.Join(dir, "private") // belongs to root
	serveCredentials(t, private)
	if err := os.Chmod(private, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sockets.DialUnix(t.Context(), private); !errors.Is(err, syscall.EACCES) {
		t.Errorf("got %v from a socket of root's, want permission denied", err)
	}
}

func countDescriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func stat(t *testing.T, path string) (mode os.FileMode, uid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode(), info.Sys().(*syscall.Stat_t).Uid
}

func isGone(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// A listening socket belongs to the account, no other account may connect to it, and it is removed when the
// listener is closed.
func TestListeningSocketIsPrivateAndRemovedOnClose(t *testing.T) {
	t.Parallel()
	acc := accounttest.Other(t)
	sockets := newSockets(t, acc)
	path := filepath.Join(accounttest.Dir(t, acc), "s")
	listener, err := sockets.ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if mode, uid := stat(t, path); mode != os.ModeSocket|0o600 || uid != acc.UID {
		t.Errorf("got %v of user %d, want a socket with 0600 of %d", mode, uid, acc.UID)
	}
	for range 3 {
		exchange(t, listener)
	}
	if _, err := sockets.ListenUnix(t.Context(), path); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v for a path in use, want address in use", err)
	}
	if err := listener.Close(); err != nil || !isGone(path) {
		t.Errorf("got %v from Close, and the socket gone %v, want it gone", err, isGone(path))
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v from a closed listener", err)
	}
}

// exchange sends bytes in both directions over a listener's next connection, each with its own end of file.
func exchange(t *testing.T, listener net.Listener) {
	t.Helper()
	client, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	_, _ = io.WriteString(client, "there")
	_ = client.(*net.UnixConn).CloseWrite()
	if b, err := io.ReadAll(server); err != nil || string(b) != "there" {
		t.Errorf("got %q, %v", b, err)
	}
	_, _ = io.WriteString(server, "back")
	server.Close()
	if b, err := io.ReadAll(client); err != nil || string(b) != "back" {
		t.Errorf("got %q, %v, want what was written before the close", b, err)
	}
}

// Listening replaces no file and follows no symbolic link. Closing removes only the socket itself, and not a
// file that has taken its place.
func TestListenUnixReplacesNoFile(t *testing.T) {
	t.Parallel()
	acc := accounttest.Other(t)
	sockets := newSockets(t, acc)
	dir := accounttest.Dir(t, acc)
	file, link, target := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := errors.Join(os.WriteFile(file, []byte("x"), 0o666), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if _, err := sockets.ListenUnix(t.Context(), path); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: got %v, want address in use", path, err)
		}
	}
	if !isGone(target) {
		t.Error("got a symbolic link followed")
	}
	path := filepath.Join(dir, "s")
	listener, err := sockets.ListenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(path), os.WriteFile(path, []byte("another"), 0o600)); err != nil {
		t.Fatal(err)
	}
	listener.Close()
	if isGone(path) {
		t.Error("got a file removed that had taken the socket's place")
	}
	if os.Geteuid() == 0 {
		if _, err := sockets.ListenUnix(t.Context(), "/etc/not-ours"); !errors.Is(err, syscall.EACCES) {
			t.Errorf("got %v in a directory of root's, want permission denied", err)
		}
	}
}

// Paths that cannot be those of a socket are refused with a remedy. A path with "@" never means an abstract
// socket.
func TestInvalidSocketPaths(t *testing.T) {
	t.Parallel()
	sockets := newSockets(t, accounttest.Other(t))
	tooLong := "/" + strings.Repeat("a", 107)
	for _, path := range []string{"", "/", "/tmp/", "/tmp/a\x00b", "\x00abstract", tooLong} {
		_, err := sockets.DialUnix(t.Context(), path)
		_, err2 := sockets.ListenUnix(t.Context(), path)
		if !fault.Is(err, fault.Invalid) || !fault.Is(err2, fault.Invalid) || fault.Remedy(err) == "" {
			t.Errorf("%q: got %v and %v, want both invalid with a remedy", path, err, err2)
		}
	}
	listener, err := net.Listen("unix", "@threshold-abstract-test")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := sockets.DialUnix(t.Context(), "@threshold-abstract-test"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v for an abstract socket, want the name taken for a file", err)
	}
}

// The socket for an SSH agent is in a directory that only the account may enter. Both are removed by Close.
func TestAgentSocketHasAPrivateDirectory(t *testing.T) {
	t.Parallel()
	acc := accounttest.Other(t)
	sockets := asaccount.New(account.Local(), acc)
	listener, err := sockets.ListenAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	path := listener.Addr().String()
	dir := filepath.Dir(path)
	if mode, uid := stat(t, dir); mode != os.ModeDir|0o700 || uid != acc.UID {
		t.Errorf("got %v of user %d, want a directory with 0700 of %d", mode, uid, acc.UID)
	}
	if mode, uid := stat(t, path); mode != os.ModeSocket|0o600 || uid != acc.UID {
		t.Errorf("got %v of user %d, want a socket with 0600 of %d", mode, uid, acc.UID)
	}
	exchange(t, listener)
	second, err := sockets.ListenAgent(t.Context())
	if err != nil || second.Addr().String() == path {
		t.Errorf("got %v, %v, want another socket", second, err)
	}
	sockets.Close()
	if !isGone(dir) || !isGone(filepath.Dir(second.Addr().String())) {
		t.Error("got the directories still there after Close")
	}
	if _, err := listener.Accept(); err == nil {
		t.Error("got a connection after Close")
	}
	if _, err := sockets.ListenAgent(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v after Close, want closed", err)
	}
}

// If the account kills the helper, its listeners end, and the next request starts a new helper.
func TestKilledHelperIsReplaced(t *testing.T) {
	t.Parallel()
	sockets := newSockets(t, accounttest.Other(t))
	listener, err := sockets.ListenAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(listener.Addr().String())) }) // the killed helper cannot
	if err := syscall.Kill(sockets.HelperPID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := listener.Accept(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want an unexpected end", err)
	}
	second, err := sockets.ListenAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, second)
}

// The helper has only the ids of the account, a small environment, and no descriptor of the agent but its
// sockets.
func TestHelperInheritsNothingFromTheAgent(t *testing.T) {
	if err := process.CloseDescriptorsOnExec(); err != nil {
		t.Fatal(err)
	}
	acc := accounttest.Other(t)
	sockets := newSockets(t, acc)
	listener, err := sockets.ListenAgent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	proc := "/proc/" + strconv.Itoa(sockets.HelperPID())
	status, err := os.ReadFile(proc + "/status")
	if err != nil {
		t.Fatal(err)
	}
	ids := fmt.Sprintf("Uid:\t%[1]d\t%[1]d\t%[1]d\t%[1]d\n", acc.UID)
	if !strings.Contains(string(status), ids) {
		t.Errorf("got %s, want %q in it", status, ids)
	}
	environ, _ := os.ReadFile(proc + "/environ")
	if !strings.HasPrefix(string(environ), "PATH=/usr/") || strings.Count(string(environ), "\x00") != 3 {
		t.Errorf("got environment %q", environ)
	}
	open, err := os.ReadDir(proc + "/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range open {
		to, _ := os.Readlink(proc + "/fd/" + e.Name())
		ofRuntime := strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/sys/fs/cgroup/")
		if !ofRuntime && !strings.HasPrefix(to, "socket:") && to != "/dev/null" {
			t.Errorf("got descriptor %s to %s", e.Name(), to)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 1, '/', 'x'})
	f.Add([]byte{9, 0, 0, 0, 1, 0x80, 0, 0, 1})
	f.Add([]byte{8, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) { asaccount.CheckMessage(t, b) })
}
