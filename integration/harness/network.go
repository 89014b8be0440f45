package harness

import (
	"context"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Listen opens a port in the room's network, served by the story.
func (r *Container) Listen(addr string) net.Listener {
	r.t.Helper()
	var l net.Listener
	err := r.inNetwork(func() (err error) {
		l, err = net.Listen("tcp", addr)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// Dial gives connections out of the room's network to the story. names stand in for a name server.
func (r *Container) Dial(
	names map[string]string,
) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if ip, ok := names[host]; ok {
			addr = net.JoinHostPort(ip, port)
		}
		err = r.inNetwork(func() (err error) {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
}

// inNetwork does something in the room's network. A socket stays in the network it was made in. The thread
// comes back; one that cannot is never used again, because it stays locked to a goroutine that has ended.
func (r *Container) inNetwork(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		here, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			done <- err
			return
		}
		defer here.Close()
		there, err := os.Open("/proc/" + r.Pid + "/ns/net")
		if err == nil {
			defer there.Close()
			err = unix.Setns(int(there.Fd()), unix.CLONE_NEWNET)
		}
		if err == nil {
			err = do()
		}
		if unix.Setns(int(here.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}
