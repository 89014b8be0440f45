package proxy

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
)

// Stalled connections from one address, at every stage, keep nobody else waiting, and are gone with the stop.
func TestAFloodDelaysNobodyElse(t *testing.T) {
	d := startProxy(t, time.Second)
	attacker := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	var held []net.Conn
	for i := range 600 {
		c, err := attacker.Dial("tcp", d.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		switch i % 4 {
		case 0: // silence, so SSH's banner and a stalled handshake
		case 1:
			c.Write([]byte{22})
		case 2:
			c.Write([]byte("SSH-2.0-x\r\n"))
		case 3:
			c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3})
		}
	}
	ctx := t.Context()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+d.addr+dial.PingPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	resp, err := d.browser().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if took := time.Since(start); took > 5*time.Second { // milliseconds; the bound leaves room for a busy machine
		t.Errorf("got an answer after %s, want it at once", took)
	}
	for _, c := range held {
		c.Close()
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}
