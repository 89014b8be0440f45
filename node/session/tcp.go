package session

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// backlog is how many connections may wait to be accepted.
const backlog = 128

// dialTCP opens a TCP connection whose owner is the account: firewalls tell root from everybody else by the
// owner of a socket, and guard the metadata services of clouds that way.
func (a Database) dialTCP(ctx context.Context, acc Account, to netip.AddrPort) (net.Conn, error) {
	fd, err := a.tcpSocket(acc, to.Addr())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close() // net.FileConn keeps a copy
	if err := connect(ctx, f, to); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return net.FileConn(f)
}

// listenTCP listens on a TCP address by a socket whose owner is the account.
func (a Database) listenTCP(acc Account, at netip.AddrPort) (net.Listener, error) {
	fd, err := a.tcpSocket(acc, at.Addr())
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "tcp")
	defer f.Close() // net.FileListener keeps a copy
	if at.Addr().Is6() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil { // past connections do not keep a port
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(f)
}

// connect waits until the socket is connected, was refused, or ctx ends.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	begun := false
	var outcome error
	err = raw.Write(func(fd uintptr) (done bool) {
		if !begun {
			begun = true
			outcome = unix.Connect(int(fd), sockaddr(to))
			return !errors.Is(outcome, unix.EINPROGRESS)
		}
		done, outcome = connectResult(int(fd))
		return done
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", outcome)
}

// connectResult reports whether a connect under way has come to an end, and to which.
func connectResult(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	return !errors.Is(err, unix.ENOTCONN), err // ENOTCONN without an error: woken too early
}

// tcpSocket makes a socket that belongs to the account. Who owns a socket is decided when it is made, by the
// thread's file system ids; nothing else runs on this thread meanwhile, and Go makes no other thread after
// its likeness while it is locked.
func (a Database) tcpSocket(acc Account, addr netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	if a.UID == 0 && (acc.UID != 0 || acc.GID != 0) {
		runtime.LockOSThread()
		setFSIDs(acc.UID, acc.GID)
		defer func() {
			setFSIDs(0, 0)
			runtime.UnlockOSThread()
		}()
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	return fd, os.NewSyscallError("socket", err)
}

// setFSIDs sets the file system ids of this thread. Root always may; a thread that kept another's ids must
// not live on.
func setFSIDs(uid, gid uint32) {
	const ask = -1 // changes nothing and tells what is
	_, _ = unix.SetfsgidRetGid(int(gid))
	_, _ = unix.SetfsuidRetUid(int(uid))
	u, _ := unix.SetfsuidRetUid(ask)
	g, _ := unix.SetfsgidRetGid(ask)
	if uint32(u) != uid || uint32(g) != gid {
		panic("session: a thread could not take on the file system ids of an account")
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
