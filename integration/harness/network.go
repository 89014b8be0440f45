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

// Dial returns a function by which the test's process connects to addresses in the container's network. names
// has the IP address of each host name, in place of a name server; another host must be an IP address.
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

// inNetwork calls do on a thread that is in the container's network namespace, and returns its error. A
// socket that do makes stays in that namespace, whichever thread uses it later. Afterwards the thread returns
// to the namespace of the process. If it cannot, it must not run other goroutines: it stays locked to its
// goroutine, so the runtime ends it with the goroutine.
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
