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
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	alive.Watch(conn)
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (n int) {
		if err := raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), level, name) }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
		t.Error("got no probes, want them")
	}
	idle, every, count := option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE), option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL), option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if after := idle + every*count; after > 60 {
		t.Errorf("got a vanished peer noticed after %d s, want within 60", after)
	}
	if limit := option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); limit == 0 || limit > 60_000 {
		t.Errorf("got %d ms for bytes to be acknowledged, want 60,000 at most", limit)
	}
}

func TestAPipeIsLeftAlone(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	alive.Watch(near)
}
