package harness

import (
	"context"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listen opens a port in the container's network, for a server in the test's process.
func (c *Container) Listen(addr string) net.Listener {
	c.t.Helper()
	var l net.Listener
	err := c.inNetwork(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return l
}

// DialFunc makes connections, like net.Dialer.DialContext.
type DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial returns a function that connects the test's process through the container's network. names has the
// address of each host name, in place of a name server.
func (c *Container) Dial(names map[string]string) DialFunc {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if ip, ok := names[host]; ok {
			addr = net.JoinHostPort(ip, port)
		}
		err = c.inNetwork(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// inNetwork calls do on a thread that is in the container's network namespace. A socket stays in the
// namespace in which it was made. Afterwards the thread goes back to its own namespace. A thread that
// cannot go back is never used again: it stays locked to its goroutine, so the runtime ends it with the
// goroutine.
func (c *Container) inNetwork(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		own, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer own.Close()
		target, err := os.Open("/proc/" + c.Pid + "/ns/net")
		if err == nil {
			defer target.Close()
			err = unix.Setns(int(target.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
		if unix.Setns(int(own.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
