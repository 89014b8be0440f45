package asaccount

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/account"
)

// backlog is how many connections of a listener the kernel keeps until they are accepted.
const backlog = 128

// dialTCP opens a TCP connection whose socket belongs to the account. Firewalls tell root from other accounts
// by a socket's owner, and protect the metadata services of clouds in this way. If ctx ends first, the error
// is its cause.
func dialTCP(
	ctx context.Context, db account.Database, acc account.Account, to netip.AddrPort,
) (net.Conn, error) {
	fd, err := tcpSocket(db, acc, to.Addr())
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

// listenTCP listens on a TCP address with a socket that belongs to the account.
func listenTCP(db account.Database, acc account.Account, at netip.AddrPort) (net.Listener, error) {
	fd, err := tcpSocket(db, acc, at.Addr())
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
	// Without SO_REUSEADDR, connections that have ended would keep the port for a while.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
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

// connect connects the socket and waits until it is connected or refused, or until ctx ends.
func connect(ctx context.Context, f *os.File, to netip.AddrPort) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	started := false
	var result error
	err = raw.Write(func(fd uintptr) (done bool) { // called again whenever the socket becomes writable
		if !started {
			started = true
			result = unix.Connect(int(fd), sockaddr(to))
			return !errors.Is(result, unix.EINPROGRESS)
		}
		done, result = connectResult(int(fd))
		return done
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("connect", result)
}

// connectResult reports whether a connect has ended, and its error.
func connectResult(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	return !errors.Is(err, unix.ENOTCONN), err // ENOTCONN without a socket error: woken too early
}

// tcpSocket makes a socket that belongs to the account. The kernel takes a socket's owner from the file
// system ids of the thread that makes it. The thread is locked while it has the account's ids: nothing else
// runs on it, and Go starts no thread from it, which would inherit them.
func tcpSocket(db account.Database, acc account.Account, addr netip.Addr) (fd int, err error) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	if db.UID == 0 && (acc.UID != 0 || acc.GID != 0) {
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

// setFSIDs sets the file system ids of this thread, and panics if they do not have the values afterwards.
// Root may always set them; a thread with the ids of another account must not go on.
func setFSIDs(uid, gid uint32) {
	const query = -1 // an invalid id: changes nothing and returns the present one
	_, _ = unix.SetfsgidRetGid(int(gid))
	_, _ = unix.SetfsuidRetUid(int(uid))
	u, _ := unix.SetfsuidRetUid(query)
	g, _ := unix.SetfsgidRetGid(query)
	if uint32(u) != uid || uint32(g) != gid {
		panic("asaccount: the file system ids of a thread could not be set")
	}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
