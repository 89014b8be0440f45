package mux_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/threshold-access/threshold/proxy/mux"
	"github.com/threshold-access/threshold/proxy/proxytest"
)

var balancers = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("2001:db8:b::/64")}

// behindBalancer is the configuration with PROXY headers.
func behindBalancer(l *pipeListener, a *proxytest.Auth) mux.Config {
	return mux.Config{Listener: l, AuthAddr: a.Addr(), Balancers: balancers, ProxyProtocol: true}
}

// A PROXY header is accepted only from a listed balancer, which must send one.
func TestOnlyBalancersMaySendAProxyHeader(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	const header = "PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n"
	const local = "PROXY UNKNOWN\r\n"
	for _, tt := range []struct {
		name          string
		proxyProtocol bool
		from          string
		first         string
		want          string // the client's address at the server; empty: refused
	}{
		{"a balancer with a header", true, "10.0.0.1:5", header + "SSH-alice", "192.0.2.7:40000"},
		{"a balancer over IPv6", true, "[2001:db8:b::1]:5", header + "SSH-alice", "192.0.2.7:40000"},
		{"a balancer over mapped IPv4", true, "[::ffff:10.0.0.1]:5", header + "SSH-alice", "192.0.2.7:40000"},
		{"a header without addresses", true, "10.0.0.1:5", local + "SSH-alice", "10.0.0.1:5"},
		{"a silent SSH client", true, "10.0.0.1:5", header, "192.0.2.7:40000"},
		{"a balancer without a header", true, "10.0.0.1:5", "SSH-alice", ""},
		{"a balancer with two headers", true, "10.0.0.1:5", header + header + "SSH-alice", ""},
		{"another address with a header", true, "10.0.1.1:5", header + "SSH-alice", ""},
		{"another address without a header", true, "10.0.1.1:5", "SSH-alice", "10.0.1.1:5"},
		{"no header while the protocol is off", false, "10.0.0.1:5", "SSH-alice", "10.0.0.1:5"},
		{"a header while the protocol is off", false, "10.0.0.1:5", header + "SSH-alice", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipeListener()
			cfg := behindBalancer(listener, auth)
			cfg.ProxyProtocol = tt.proxyProtocol
			port := startConfig(auth, trust, cfg)
			drainAndClose(listener.dialAndWrite(tt.from, tt.first))
			select {
			case s := <-port.served:
				if s.from != tt.want {
					t.Errorf("%s: got served as from %s, want %q", tt.name, s.from, tt.want)
				}
			default:
				if tt.want != "" {
					t.Errorf("%s: got refused, want served", tt.name)
				}
			}
			port.stop()
		})
	}
}

// Servers behind TLS see the client's address, too.
func TestTheClientAddressIsKeptThroughTLS(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	listener := newPipeListener()
	port := startConfig(auth, openRules(t, auth), behindBalancer(listener, auth))
	alice := auth.User("alice@example.com", "ops")
	for alpn, by := range map[string]string{"threshold-dial": "dial", "h2": "web"} {
		raw := listener.dialFrom(tcp("10.0.0.1:5"))
		io.WriteString(raw, "PROXY TCP6 2001:db8::7 2001:db8::1 40000 443\r\n")
		conn := tls.Client(raw, &tls.Config{
			NextProtos:         []string{alpn},
			Certificates:       certs(auth.UserCertificate(alice, nil)),
			InsecureSkipVerify: true,
		})
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if s := <-port.served; s.by != by || s.from != "[2001:db8::7]:40000" {
			t.Errorf("%s: got %s from %s, want %s from the client", alpn, s.by, s.from, by)
		}
		raw.Close()
	}
	port.stop()
}

// A balancer's connection that stalls before its PROXY header is complete is held for 10 s and not longer.
func TestAStalledProxyHeaderTimesOut(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	for _, first := range []string{
		"", "PRO", "PROXY TCP4 192.0.2.7", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c1234",
	} {
		synctest.Test(t, func(t *testing.T) {
			listener := newPipeListener()
			port := startConfig(auth, trust, behindBalancer(listener, auth))
			start := time.Now()
			drainAndClose(listener.dialAndWrite("10.0.0.1:5", first))
			if took := time.Since(start); took != 10*time.Second {
				t.Errorf("%q: got held for %s, want 10s", first, took)
			}
			port.stop()
			if port.mux.Counters().TimedOut.Load() != 1 {
				t.Errorf("%q: got %v, want one timed out", first, port.mux.Counters().LogValue())
			}
		})
	}
}

// Behind a balancer, penalties and limits apply to the client's network and not to the balancer's.
func TestPenaltiesHitTheClientNotTheBalancer(t *testing.T) {
	t.Parallel()
	auth := proxytest.New(t)
	trust := openRules(t, auth)
	synctest.Test(t, func(t *testing.T) {
		listener := newPipeListener()
		port := startConfig(auth, trust, behindBalancer(listener, auth))
		header := func(client string) string {
			return fmt.Sprintf("PROXY TCP4 %s 198.51.100.1 40000 443\r\n", client)
		}
		for range 20 {
			drainAndClose(listener.dialAndWrite("10.0.0.1:5", header("192.0.2.7")+"garbage"))
		}
		for client, want := range map[string]bool{"192.0.2.7": false, "192.0.2.8": true} {
			drainAndClose(listener.dialAndWrite("10.0.0.1:5", header(client)+"SSH-alice"))
			select {
			case <-port.served:
				if !want {
					t.Errorf("%s: got served, want penalised", client)
				}
			default:
				if want {
					t.Errorf("%s: got penalised for another client", client)
				}
			}
		}
		for i := range 1000 { // stalled connections of many clients
			listener.dialAndWrite("10.0.0.1:5", header(fmt.Sprintf("203.0.%d.%d", i/250, i%250))+"\x16")
		}
		synctest.Wait()
		if got := port.mux.Counters().Dropped.Load(); got != 0 {
			t.Errorf("got %d dropped, want none", got)
		}
		port.stop()
	})
}
