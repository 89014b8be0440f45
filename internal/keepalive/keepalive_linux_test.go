package keepalive

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel's settings add up to less than a minute. That the kernel acts on them is tested in integration:
// TestAVanishedPeerIsDetected.
func TestTheKernelProbesWithinAMinute(t *testing.T) {
	t.Parallel()
	near, far := connectedPair(t)
	Enable(far)
	for name, conn := range map[string]net.Conn{"dialled": near, "accepted": far} {
		if socketOption(t, conn, unix.SOL_SOCKET, unix.SO_KEEPALIVE) != 1 {
			t.Errorf("%s: got no probes, want them", name)
		}
		idle := socketOption(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)
		interval := socketOption(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)
		count := socketOption(t, conn, unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
		after := idle + interval*count
		if after > 60 {
			t.Errorf("%s: got a vanished peer detected after %d s, want within 60", name, after)
		}
		if ms := socketOption(t, conn, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); ms != 0 {
			t.Errorf("%s: got TCP_USER_TIMEOUT of %d ms, want none: it ends connections of slow readers",
				name, ms)
		}
	}
}

// Ctrl-Z stops a client while much is being sent to it. Its machine answers that the receive window is full,
// so the connection stays open, however long that lasts.
func TestAPeerThatReadsNothingIsKept(t *testing.T) {
	t.Parallel()
	near, far := connectedPair(t)
	raw, err := near.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	ackMonitor{raw, 50 * time.Millisecond, 200 * time.Millisecond}.schedule()
	_ = near.SetWriteDeadline(time.Now().Add(2 * time.Second))
	sent, err := io.Copy(near, zeros{})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %v after %d bytes, want the connection to wait for a reader", err, sent)
	}
	near.Close()
	if got, err := io.Copy(io.Discard, far); err != nil || got < sent {
		t.Errorf("got %d bytes and %v once the peer reads, want all %d", got, err, sent)
	}
}

// Each row is what the kernel says of a connection, and whether its peer counts as vanished.
func TestWhenAPeerCountsAsVanished(t *testing.T) {
	t.Parallel()
	m := ackMonitor{interval: checkInterval, timeout: PeerTimeout}
	for name, tt := range map[string]struct {
		unacked, answer, sent time.Duration
		want                  bool
	}{
		"nothing came back after retransmissions":   {1, 45 * time.Second, 20 * time.Second, true},
		"nothing was sent, which is for the probes": {0, time.Hour, time.Hour, false},
		"something came back in time":               {1, 30 * time.Second, 20 * time.Second, false},
		"a full window, answered at each probe":     {1, 100 * time.Second, 101 * time.Second, false},
		"a full window, probed just now":            {1, 100 * time.Second, time.Second, false},
	} {
		info := &unix.TCPInfo{
			Unacked:        uint32(tt.unacked),
			Last_ack_recv:  uint32(tt.answer.Milliseconds()),
			Last_data_sent: uint32(tt.sent.Milliseconds()),
		}
		if got := m.timedOut(info); got != tt.want {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
	if late := PeerTimeout + 2*checkInterval; late >= time.Minute {
		t.Errorf("got a vanished peer detected after %s, want within a minute", late)
	}
}

// zeros is a source of zeros.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// connectedPair is a connection that Dialer opened, and its other end.
func connectedPair(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err := Dialer().DialContext(t.Context(), "tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

func socketOption(t *testing.T, conn net.Conn, level, name int) (n int) {
	t.Helper()
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var optionErr error
	err = raw.Control(func(fd uintptr) { n, optionErr = unix.GetsockoptInt(int(fd), level, name) })
	if err != nil || optionErr != nil {
		t.Fatal(err, optionErr)
	}
	return n
}

func TestEnableIgnoresPipes(t *testing.T) {
	t.Parallel()
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	Enable(near)
}
