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

// dialAndWrite is what somebody sends who is let in at once by the test's SSH server.
func (l *pipeListener) dialAndWrite(from, words string) net.Conn {
	c := l.dialFrom(tcp(from))
	go c.Write([]byte(words)) // fails where the connection is closed at once
	return c
}

// drainAndClose reads until the connection ends and the port is done with it. It is for bubbles.
func drainAndClose(c net.Conn) {
	_, _ = io.Copy(io.Discard, c)
	c.Close()
	synctest.Wait()
}

func TestOneNetworkCannotTakeEverySlot(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		p := startOn(a, trust, l)
		var held []net.Conn
		for i := range 2000 {
			held = append(held, l.dialAndWrite(fmt.Sprintf("192.0.2.1:%d", 1+i), "\x16"))
		}
		synctest.Wait()
		if got := p.mux.Counters().Dropped.Load(); got < 2000-256 || got > 2000-128 {
			t.Errorf("got %d of 2,000 dropped, want all but 128 to 256", got)
		}
		for _, from := range []string{"192.0.2.1:9999", "192.0.2.2:9999"} { // the flooder's neighbour, and somebody else
			c := l.dialAndWrite(from, "SSH-alice")
			if s := <-p.served; s.by != "ssh SSH-alice" {
				t.Errorf("%s: got %q, want to be served in the middle of it", from, s.by)
			}
			c.Close()
		}
		for _, c := range held {
			c.Close()
		}
		p.stop()
	})
}

// What the port holds for strangers is bounded, and gone when they are: goroutines return to where they were,
// but for a few that are not the port's.
func TestAFloodFromManyNetworksIsBounded(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		p := startOn(a, trust, l)
		synctest.Wait()
		before := runtime.NumGoroutine()
		var held []net.Conn
		for i := range 6000 {
			held = append(held, l.dialAndWrite(fmt.Sprintf("10.0.%d.%d:7", i/250, i%250), "\x16\x03"))
		}
		synctest.Wait()
		if got := p.mux.Counters().Dropped.Load(); got < 6000-2048 {
			t.Errorf("got %d of 6,000 dropped, want at most 2,048 held", got)
		}
		for _, c := range held {
			c.Close()
		}
		synctest.Wait()
		if after := runtime.NumGoroutine(); after > before+10 {
			t.Errorf("got %d goroutines after the flood, want the %d of before", after, before)
		}
		p.stop()
	})
}

// sendGarbage makes n connections that speak nothing which belongs here.
func sendGarbage(l *pipeListener, from string, n int) {
	for range n {
		drainAndClose(l.dialAndWrite(from, "\x00\x01\x02\x03"))
	}
}

func TestANetworkWithOnlyRefusalsIsPenalised(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	for _, tt := range []struct {
		name    string
		offence func(l *pipeListener, from string)
	}{
		{"garbage", func(l *pipeListener, from string) { sendGarbage(l, from, 6) }},
		{"a PROXY header where none is believed", func(l *pipeListener, from string) {
			for range 6 {
				drainAndClose(l.dialAndWrite(from, "PROXY TCP4 192.0.2.9 192.0.2.10 1 2\r\nSSH-alice"))
			}
		}},
		{"certificates that are not good", func(l *pipeListener, from string) {
			for range 4 {
				drainAndClose(l.dialAndWrite(from, "SSH-thief"))
			}
		}},
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
			p := startOn(a, trust, l)
			tt.offence(l, "192.0.2.1:5")
			if !isServed(l, p, "192.0.2.2:1") {
				t.Errorf("%s: got a neighbour's neighbour turned away", tt.name)
			}
			if isServed(l, p, "192.0.2.1:6") {
				t.Errorf("%s: got served, want turned away", tt.name)
			}
			if p.mux.Counters().Penalised.Load() != 1 {
				t.Errorf("%s: got %v, want one turned away", tt.name, p.mux.Counters().LogValue())
			}
			<-time.After(5 * time.Minute) // in the bubble: what is owed is paid by then at the latest
			if !isServed(l, p, "192.0.2.1:7") {
				t.Errorf("%s: got turned away after five minutes, want served", tt.name)
			}
			p.stop()
		})
	}
}

// isServed reports whether alice is served from the address.
func isServed(l *pipeListener, p *testMux, from string) bool {
	c := l.dialAndWrite(from, "SSH-alice")
	drainAndClose(c)
	synctest.Wait()
	select {
	case s := <-p.served:
		return s.by == "ssh SSH-alice"
	default:
		return false
	}
}

func TestAFewRefusalsAreTolerated(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		p := startOn(a, trust, l)
		sendGarbage(l, "192.0.2.1:5", 5)
		for range 100 { // whoever only looks whether the port is open
			l.dialFrom(tcp("192.0.2.1:6")).Close()
		}
		if !isServed(l, p, "192.0.2.1:7") {
			t.Error("got turned away, want served")
		}
		p.stop()
	})
}

// Who took a pinned certificate along does not make a network known with it.
func TestAPinnedCertificateProtectsOnlyItsNetwork(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	now := time.Now() // not the bubble's
	alice := a.User("alice@example.com")
	alice.SourceAddresses = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}
	cert := a.UserCertificate(alice, nil)
	for from, want := range map[string]bool{"192.0.2.1:5": true, "192.0.2.2:5": false} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			p := startConfig(
				a,
				trust,
				mux.Config{Listener: l, AuthAddr: a.Addr(), Now: func() time.Time { return now }},
			)
			showCertificate(l, from, cert)
			if s := <-p.served; s.by != "dial" {
				t.Errorf("%s: got %q, want dial, which tells what is wrong", from, s.by)
			}
			sendGarbage(l, from, 20)
			if got := isServed(l, p, from); got != want {
				t.Errorf("%s: got served %v after offences, want %v", from, got, want)
			}
			p.stop()
		})
	}
}

// A program that goes on with the certificate of yesterday, or none, keeps nobody beside it from logging in.
func TestExpiredAndMissingCertificatesCostLittle(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	now := time.Now() // not the bubble's, in which a's authorities do not exist yet
	yesterday := func(a *proxytest.Auth) *tls.Certificate {
		return a.UserCertificate(
			a.User("alice@example.com"),
			func(c *x509.Certificate) { c.NotBefore, c.NotAfter = now.Add(-time.Minute), now.Add(-time.Second) },
		)
	}
	ours, foreign := yesterday(a), yesterday(proxytest.New(t))
	for _, tt := range []struct {
		name  string
		come  func(l *pipeListener, from string)
		close bool // they are turned away
	}{
		{"by SSH", func(l *pipeListener, from string) { drainAndClose(l.dialAndWrite(from, "SSH-ended")) }, false},
		{"by SSH, with none", func(l *pipeListener, from string) { drainAndClose(l.dialAndWrite(from, "SSH-none")) }, false},
		{"by tsh", func(l *pipeListener, from string) { showCertificate(l, from, ours) }, false},
		{"of another cluster", func(l *pipeListener, from string) { showCertificate(l, from, foreign) }, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			p := startConfig(
				a,
				trust,
				mux.Config{Listener: l, AuthAddr: a.Addr(), Now: func() time.Time { return now }},
			)
			for range 10 {
				tt.come(l, "192.0.2.1:5")
			}
			if got := isServed(l, p, "192.0.2.1:6"); got == tt.close {
				t.Errorf("%s: got served %v, want %v", tt.name, got, !tt.close)
			}
			p.stop()
		})
	}
}

// showCertificate comes with a certificate for dial. It is for bubbles.
func showCertificate(l *pipeListener, from string, cert *tls.Certificate) {
	conn := l.dialFrom(tcp(from))
	c := tls.Client(
		conn,
		&tls.Config{
			InsecureSkipVerify: true,
			NextProtos:         []string{identity.ALPNDial},
			Certificates:       []tls.Certificate{*cert},
		},
	)
	_ = c.Handshake()
	drainAndClose(c)
}

// An office shares an address: who behaves badly there locks nobody out where somebody has logged in.
func TestAKnownNetworkIsNotPenalised(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	for _, from := range []string{"192.0.2.1:5", "[2001:db8:1:2:3::4]:5"} {
		synctest.Test(t, func(t *testing.T) {
			l := newPipeListener()
			p := startOn(a, trust, l)
			if !isServed(l, p, from) {
				t.Fatal("got the first one turned away")
			}
			sendGarbage(l, from, 50)
			if !isServed(l, p, from) {
				t.Error("got an office locked out by one who offends there, want it served")
			}
			<-time.After(25 * time.Hour) // in the bubble: alice's certificate has ended
			sendGarbage(l, from, 6)
			if isServed(l, p, from) {
				t.Error("got a network served that nobody is known to come from any more")
			}
			p.stop()
		})
	}
}

func TestExemptNetworksAreNotPenalised(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		p := startConfig(a, trust, mux.Config{Listener: l, AuthAddr: a.Addr(),
			Exempt: []netip.Prefix{
				netip.MustParsePrefix("192.0.2.0/25"),
				netip.MustParsePrefix("2001:db8::7/128"),
			}})
		for from, want := range map[string]bool{"192.0.2.1:5": true, "[2001:db8::9]:5": true, "192.0.2.200:5": false} {
			sendGarbage(l, from, 20)
			if got := isServed(l, p, from); got != want {
				t.Errorf("%s: got served %v, want %v", from, got, want)
			}
		}
		p.stop()
	})
}

// Addresses of one IPv6 network are one source.
func TestAnIPv6NetworkIsOneSource(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		l := newPipeListener()
		p := startOn(a, trust, l)
		for i := range 10 {
			sendGarbage(l, fmt.Sprintf("[2001:db8::%x]:7", i+1), 1)
		}
		if isServed(l, p, "[2001:db8::ffff]:7") || !isServed(l, p, "[2001:db8:0:1::1]:7") {
			t.Error("got another answer than: the /64 is turned away, the next one is not")
		}
		p.stop()
	})
}

// A balancer looks every other second whether the port is open, and resets the connection: that is nobody's
// offence.
func TestAPortProbeIsNotPenalised(t *testing.T) {
	a := proxytest.New(t)
	p := startTCP(t, a, a.Addr(), openRules(t, a))
	for range 50 {
		c := p.dial().(*net.TCPConn)
		if err := c.SetLinger(0); err != nil { // a reset in place of a goodbye
			t.Fatal(err)
		}
		c.Close()
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for late := time.After(10 * time.Second); p.mux.Counters().NoData.Load() < 50; {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("got %v, want 50 counted as nobody", p.mux.Counters().LogValue())
		}
	}
	c := p.dial()
	if _, err := io.WriteString(c, "SSH-alice"); err != nil {
		t.Fatal(err)
	}
	if s := <-p.served; s.by != "ssh SSH-alice" {
		t.Errorf("got %q, want to be served", s.by)
	}
	c.Close()
	p.stop()
}

// However many are refused, the log has a line a minute about them, and one for each network that is turned
// away, a few at once.
func TestRefusalLoggingIsLimited(t *testing.T) {
	a := proxytest.New(t)
	trust := openRules(t, a)
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder // one goroutine writes at a time: a handler has a lock
		l := newPipeListener()
		p := startConfig(
			a,
			trust,
			mux.Config{Listener: l, AuthAddr: a.Addr(), Log: slog.New(slog.NewTextHandler(&log, nil))},
		)
		for i := range 100 {
			sendGarbage(l, fmt.Sprintf("192.0.2.%d:5", i), 6)
		}
		<-time.After(10 * time.Minute) // in the bubble
		p.stop()
		if n := strings.Count(log.String(), "connections were refused"); n != 1 {
			t.Errorf(
				"got %d lines about what was refused, want 1 in the minute when it was:\n%s",
				n,
				log.String(),
			)
		}
		if n := strings.Count(log.String(), "turned away for a while"); n != 10 {
			t.Errorf("got %d lines about networks, want 10 at once and no more", n)
		}
		if !strings.Contains(log.String(), "so_far.refused=600") ||
			!strings.Contains(log.String(), "networks_turned_away=") {
			t.Errorf("got %s, want the counters in it", log.String())
		}
	})
}
