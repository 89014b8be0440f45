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

// dialTCP opens a TCP connection whose socket belongs to the account. Firewalls on the machine may have rules
// by a socket's owner: they let only root reach the metadata service of a cloud, for example. If ctx ends
// first, the error is its cause.
func dialTCP(
	ctx context.Context, db account.Database, acc account.Account, addr netip.AddrPort,
) (net.Conn, error) {
	fd, err := tcpSocket(db, acc, addr.Addr())
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close() // net.FileConn keeps a copy
	if err := connect(ctx, file, addr); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return net.FileConn(file)
}

// listenTCP listens on a TCP address with a socket that belongs to the account.
func listenTCP(db account.Database, acc account.Account, addr netip.AddrPort) (net.Listener, error) {
	fd, err := tcpSocket(db, acc, addr.Addr())
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "tcp")
	defer file.Close()     // net.FileListener keeps a copy
	if addr.Addr().Is6() { // IPv6 only: the IPv4 address gets a listener of its own
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	// Without SO_REUSEADDR, connections that have ended would keep the port for a while.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return nil, os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Bind(fd, sockaddr(addr)); err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return nil, os.NewSyscallError("listen", err)
	}
	return net.FileListener(file)
}

// connect connects a non-blocking socket and waits until it is connected or refused, or until ctx ends.
// It waits in Go's poller, so the wait occupies no thread.
func connect(ctx context.Context, file *os.File, addr netip.AddrPort) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetWriteDeadline(time.Unix(1, 0)) }) // ends raw.Write
	defer stop()
	started := false
	var result error                               // of the connect
	err = raw.Write(func(fd uintptr) (done bool) { // called again whenever the socket becomes writable
		if !started {
			started = true
			result = unix.Connect(int(fd), sockaddr(addr))
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

// connectResult reports whether a connect has ended, and if so with which error. If done is false, err means
// nothing: the socket became writable too early, and the caller waits again.
func connectResult(fd int) (done bool, err error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return true, err
	}
	if code != 0 {
		return true, unix.Errno(code)
	}
	_, err = unix.Getpeername(fd)
	stillConnecting := errors.Is(err, unix.ENOTCONN)
	return !stillConnecting, err
}

// tcpSocket makes a TCP socket of the address's family that belongs to the account. The kernel takes a
// socket's owner from the file system ids of the thread that makes it, so the thread gets the account's ids
// for that moment. The goroutine is locked to the thread meanwhile: no other goroutine runs on the thread,
// and Go starts no new thread from it, which would inherit the ids.
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
