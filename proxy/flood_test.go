package proxy

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
)

// Stalled connections from one address, at every stage, delay nobody else, and a stop closes them. The test
// measures time, so it does not run in parallel with others.
func TestAFloodDelaysNobodyElse(t *testing.T) {
	running := startProxy(t, time.Second)
	attacker := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	var held []net.Conn
	for i := range 600 {
		c, err := attacker.Dial("tcp", running.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		switch i % 4 {
		case 0: // nothing: the proxy takes it for SSH, and the handshake stalls
		case 1:
			c.Write([]byte{22})
		case 2:
			c.Write([]byte("SSH-2.0-x\r\n"))
		case 3:
			c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
		}
	}
	address := "https://" + running.addr + dial.PingPath
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	resp, err := running.browser().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if took := time.Since(start); took > 5*time.Second { // usually milliseconds
		t.Errorf("got an answer after %s, want it at once", took)
	}
	for _, c := range held {
		c.Close()
	}
	if err := running.stop(); err != nil {
		t.Error(err)
	}
}
