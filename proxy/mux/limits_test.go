package mux_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

// dialAndWrite connects from an address and writes the first bytes.
func (l *pipeListener) dialAndWrite(from, first string) net.Conn {
	c := l.dialFrom(tcp(from))
	go c.Write([]byte(first)) // it fails when the Mux closes the connection at once
	return c
}

// drainAndClose reads until the Mux closes the connection, and waits until it is done with it. It needs a
// synctest bubble.
func drainAndClose(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	synctest.Wait()
}

// advance lets the time of a synctest bubble pass.
func advance(d time.Duration) { <-time.After(d) }

// sendGarbage makes n connections that send no known protocol.
func sendGarbage(l *pipeListener, from string, n int) {
	for range n {
		drainAndClose(l.dialAndWrite(from, "\x00\x01\x02\x03"))
	}
}

// showCertificate does a handshake for threshold-dial.
func showCertificate(l *pipeListener, from string, cert *tls.Certificate) {
	c := tls.Client(l.dialFrom(tcp(from)), &tls.Config{
		InsecureSkipVerify: true,
		NextProtos:         []string{identity.ALPNDial},
		Certificates:       []tls.Certificate{*cert},
	})
	_ = c.Handshake()
	drainAndClose(c)
}

// isServed reports whether alice is served from the address.
func isServed(l *pipeListener, m *testMux, from string) bool {
	drainAndClose(l.dialAndWrite(from, "SSH-alice"))
	select {
	case s := <-m.served:
		return s.by == "ssh SSH-alice"
	default:
		return false
	}
}

// 2,000 stalled connections from one network keep between 128 and 256 slots. Clients of the same and of other
// networks are still served.
func TestOneNetworkCannotTakeEverySlot(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	synctest.Test(t, func(t *testing.T) {
		listener := newPipeListener()
		port := startOn(auth, trust, listener)
		var held []net.Conn
		for i := range 2000 {
			held = append(held, listener.dialAndWrite(fmt.Sprintf("192.0.2.1:%d", 1+i), "\x16"))
		}
		synctest.Wait()
		if got := port.mux.Counters().Dropped.Load(); got < 2000-256 || got > 2000-128 {
			t.Errorf("got %d of 2,000 dropped, want all but 128 to 256", got)
		}
		for _, from := range []string{"192.0.2.1:9999", "192.0.2.2:9999"} { // the same network, and another
			c := listener.dialAndWrite(from, "SSH-alice")
			if s := <-port.served; s.by != "ssh SSH-alice" {
				t.Errorf("%s: got %q, want alice served during the flood", from, s.by)
			}
			c.Close()
		}
		for _, c := range held {
			c.Close()
		}
		port.stop()
	})
}

// The number of pending connections is bounded in all, and their goroutines end with them. The test counts
// goroutines, so it does not run in parallel with others.
func TestAFloodFromManyNetworksIsBounded(t *testing.T) {
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	synctest.Test(t, func(t *testing.T) {
		listener := newPipeListener()
		port := startOn(auth, trust, listener)
		synctest.Wait()
		before := runtime.NumGoroutine()
		var held []net.Conn
		for i := range 6000 {
			held = append(held, listener.dialAndWrite(fmt.Sprintf("10.0.%d.%d:7", i/250, i%250), "\x16\x03"))
		}
		synctest.Wait()
		if got := port.mux.Counters().Dropped.Load(); got < 6000-2048 {
			t.Errorf("got %d of 6,000 dropped, want at most 2,048 held", got)
		}
		for _, c := range held {
			c.Close()
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before+10 { // some belong to the auth service
			t.Errorf("got %d goroutines after the flood, want the %d of before", after, before)
		}
		port.stop()
	})
}

// A network that sends only garbage, invalid certificates or stalls is penalised, and no other network. It is
// served again after five minutes at the latest.
func TestANetworkWithOnlyRefusalsIsPenalised(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	repeat := func(n int, first string) func(*pipeListener, string) {
		return func(l *pipeListener, from string) {
			for range n {
				drainAndClose(l.dialAndWrite(from, first))
			}
		}
	}
	for _, tt := range []struct {
		name string
		send func(l *pipeListener, from string)
	}{
		{"garbage", repeat(6, "\x00\x01\x02\x03")},
		{"a PROXY header without a balancer", repeat(6, "PROXY TCP4 192.0.2.9 192.0.2.10 1 2\r\nSSH-alice")},
		{"invalid certificates", repeat(4, "SSH-bogus")},
		{"stalls", func(l *pipeListener, from string) {
			var held []net.Conn
			for range 3 {
				held = append(held, l.dialAndWrite(from, "\x16"))
			}
			for _, c := range held {
				drainAndClose(c)
			}
		}},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			port := startOn(auth, trust, l)
			tt.send(l, "192.0.2.1:5")
			if !isServed(l, port, "192.0.2.2:1") {
				t.Errorf("%s: got another network penalised too", tt.name)
			}
			if isServed(l, port, "192.0.2.1:6") {
				t.Errorf("%s: got served, want penalised", tt.name)
			}
			if port.mux.Counters().Penalised.Load() != 1 {
				t.Errorf("%s: got %v, want one penalised", tt.name, port.mux.Counters().LogValue())
			}
			advance(5 * time.Minute) // the longest debt there is
			if !isServed(l, port, "192.0.2.1:7") {
				t.Errorf("%s: got penalised after five minutes, want served", tt.name)
			}
			port.stop()
		})
	}
}

func TestAFewRefusalsAreTolerated(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		m := startOn(a, trust, l)
		sendGarbage(l, "192.0.2.1:5", 5)
		for range 100 { // port probes
			l.dialFrom(tcp("192.0.2.1:6")).Close()
		}
		if !isServed(l, m, "192.0.2.1:7") {
			t.Error("got penalised, want served")
		}
		m.stop()
	})
}

// A certificate that is pinned to another network does not protect the network from which it is shown.
func TestAPinnedCertificateProtectsOnlyItsNetwork(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	now := time.Now() // real time: the certificates are not valid yet at the time of the bubble
	alice := auth.User("alice@example.com")
	alice.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	cert := auth.UserCertificate(alice, nil)
	for from, want := range map[string]bool{"192.0.2.1:5": true, "192.0.2.2:5": false} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipeListener()
			cfg := mux.Config{Listener: listener, AuthAddr: auth.Addr(), Now: func() time.Time { return now }}
			port := startConfig(auth, trust, cfg)
			showCertificate(listener, from, cert)
			if s := <-port.served; s.by != "dial" {
				t.Errorf("%s: got %q, want dial, which explains the refusal", from, s.by)
			}
			sendGarbage(listener, from, 20)
			if got := isServed(listener, port, from); got != want {
				t.Errorf("%s: got served %v after garbage, want %v", from, got, want)
			}
			port.stop()
		})
	}
}

// A program that keeps trying with an expired certificate, or with none, does not get its network
// penalised: its user must be able to log in again.
func TestExpiredAndMissingCertificatesCostLittle(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	trust := openRules(t, a)
	now := time.Now() // real time: the certificates are not valid yet at the time of the bubble
	expired := func(a *proxytest.Auth) *tls.Certificate {
		return a.UserCertificate(a.User("alice@example.com"), func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(-time.Second)
		})
	}
	overSSH := func(first string) func(*pipeListener, string) {
		return func(l *pipeListener, from string) { drainAndClose(l.dialAndWrite(from, first)) }
	}
	overDial := func(cert *tls.Certificate) func(*pipeListener, string) {
		return func(l *pipeListener, from string) { showCertificate(l, from, cert) }
	}
	for _, tt := range []struct {
		name      string
		connect   func(l *pipeListener, from string)
		penalised bool
	}{
		{"an expired certificate over SSH", overSSH("SSH-old"), false},
		{"no certificate over SSH", overSSH("SSH-plain"), false},
		{"an expired certificate over dial", overDial(expired(a)), false},
		{"a certificate of another cluster", overDial(expired(proxytest.New(t))), true},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			cfg := mux.Config{Listener: l, AuthAddr: a.Addr(), Now: func() time.Time { return now }}
			port := startConfig(a, trust, cfg)
			for range 10 {
				tt.connect(l, "192.0.2.1:5")
			}
			if got := isServed(l, port, "192.0.2.1:6"); got == tt.penalised {
				t.Errorf("%s: got served %v, want %v", tt.name, got, !tt.penalised)
			}
			port.stop()
		})
	}
}

// The users of an office share an address. Garbage from there does not lock them out once one has logged in.
func TestAKnownNetworkIsNotPenalised(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	for _, from := range []string{"192.0.2.1:5", "[2001:db8:1:2:3::4]:5"} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipeListener()
			port := startOn(auth, trust, listener)
			if !isServed(listener, port, from) {
				t.Fatal("got the first connection refused")
			}
			sendGarbage(listener, from, 50)
			if !isServed(listener, port, from) {
				t.Error("got a known network penalised, want it served")
			}
			advance(25 * time.Hour) // alice's certificate has expired
			sendGarbage(listener, from, 6)
			if isServed(listener, port, from) {
				t.Error("got the network served after the certificate expired, want it penalised")
			}
			port.stop()
		})
	}
}

func TestExemptNetworksAreNotPenalised(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	trust := openRules(t, a)
	exempt := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("2001:db8::7/128")}
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		m := startConfig(a, trust, mux.Config{Listener: l, AuthAddr: a.Addr(), Exempt: exempt})
		for from, want := range map[string]bool{
			"192.0.2.1:5": true, "[2001:db8::9]:5": true, "192.0.2.200:5": false,
		} {
			sendGarbage(l, from, 20)
			if got := isServed(l, m, from); got != want {
				t.Errorf("%s: got served %v, want %v", from, got, want)
			}
		}
		m.stop()
	})
}

// All addresses of an IPv6 /64 are one network.
func TestAnIPv6NetworkIsOneSource(t *testing.T) {
	t.Parallel()
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		m := startOn(a, trust, l)
		for i := range 10 {
			sendGarbage(l, fmt.Sprintf("[2001:db8::%x]:7", i+1), 1)
		}
		if isServed(l, m, "[2001:db8::ffff]:7") {
			t.Error("got an address of the same /64 served, want it penalised")
		}
		if !isServed(l, m, "[2001:db8:0:1::1]:7") {
			t.Error("got the next /64 penalised, want it served")
		}
		m.stop()
	})
}

// A balancer probes the port every few seconds and resets the connection. That costs nothing.
func TestAPortProbeIsNotPenalised(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	port := startTCP(t, auth, auth.Addr(), openRules(t, auth))
	for range 50 {
		conn := port.dial().(*net.TCPConn)
		if err := conn.SetLinger(0); err != nil { // close with a reset
			t.Fatal(err)
		}
		conn.Close()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); port.mux.Counters().NoData.Load() < 50; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("got %v, want 50 without data", port.mux.Counters().LogValue())
		}
	}
	conn := port.dial()
	if _, err := io.WriteString(conn, "SSH-alice"); err != nil {
		t.Fatal(err)
	}
	if s := <-port.served; s.by != "ssh SSH-alice" {
		t.Errorf("got %q, want alice served", s.by)
	}
	conn.Close()
	port.stop()
}

// However many connections are refused, the log has one line a minute with the counters, and a bounded
// number of lines about penalised networks.
func TestRefusalLoggingIsLimited(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder // the handler serialises writes
		listener := newPipeListener()
		log := slog.New(slog.NewTextHandler(&out, nil))
		port := startConfig(auth, trust, mux.Config{Listener: listener, AuthAddr: auth.Addr(), Log: log})
		for i := range 100 {
			sendGarbage(listener, fmt.Sprintf("192.0.2.%d:5", i), 6)
		}
		advance(10 * time.Minute)
		port.stop()
		if n := strings.Count(out.String(), "connections were refused"); n != 1 {
			t.Errorf("got %d lines with counters, want 1:\n%s", n, out.String())
		}
		if n := strings.Count(out.String(), "network penalised"); n != 10 {
			t.Errorf("got %d lines about networks, want a burst of 10", n)
		}
		for _, want := range []string{"so_far.refused=600", "penalised_networks="} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("got no %q in the log:\n%s", want, out.String())
			}
		}
	})
}
