package alive_test

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/internal/alive"
)

// What the kernel was told adds up to less than a minute. That it acts on it is shown in integration: TestAPeerThatVanishedIsNoticed.
func TestTheKernelIsToldToLook(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for name, conn := range map[string]func() (net.Conn, error){
		"dialled": func() (net.Conn, error) { return alive.Dialer().DialContext(t.Context(), "tcp", ln.Addr().String()) },
		"watched": func() (net.Conn, error) {
			conn, err := net.Dial("tcp", ln.Addr().String())
			if err == nil {
				alive.Watch(conn)
			}
			return conn, err
		},
	} {
		conn, err := conn()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if option(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
			t.Errorf("%s: got no probes, want them", name)
		}
		after := option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE) + option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)*option(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		if after > 60 {
			t.Errorf("%s: got a vanished peer noticed after %d s, want within 60", name, after)
		}
		if ms := option(t, conn, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms == 0 || ms > 60_000 {
			t.Errorf("%s: got %d ms for bytes to be acknowledged, want 60,000 at most", name, ms)
		}
	}
}

func option(t *testing.T, conn net.Conn, level, name int) (n int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var bad error
	if err := raw.Control(func(fd uintptr) { n, bad = unix.GetsockoptInt(int(fd), level, name) }); err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	return n
}

func TestAPipeIsLeftAlone(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	alive.Watch(near)
}
