package sshd_test

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/node/sshd"
)

// Each client offers one outdated algorithm of a kind and nothing else of this kind.
func TestOldAlgorithmsAreRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for _, c := range []ssh.Config{
		{KeyExchanges: []string{ssh.InsecureKeyExchangeDH14SHA1}},
		{Ciphers: []string{ssh.InsecureCipherAES128CBC}},
		{Ciphers: []string{ssh.CipherAES128CTR}, MACs: []string{ssh.HMACSHA1}},
	} {
		conn, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
			Config:          c,
			User:            testAccount(),
			Auth:            []ssh.AuthMethod{ssh.PublicKeys(f.signer())},
			HostKeyCallback: ssh.InsecureIgnoreHostKey(),
		})
		if err == nil {
			conn.Close()
			t.Errorf("%+v: got logged in, want no common algorithm", c)
		}
	}
}

// The client asks for a plain key only, and gets the key that is in the certificate.
func TestClientsWithoutHostCertificateSupportGetThePlainKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	var got ssh.PublicKey
	c, err := ssh.Dial("tcp", f.addr, &ssh.ClientConfig{
		User:              testAccount(),
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(f.signer())},
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		HostKeyCallback:   func(_ string, _ net.Addr, key ssh.PublicKey) error { got = key; return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	host, err := f.member.HostSigner()
	if err != nil {
		t.Fatal(err)
	}
	if want := host.PublicKey().(*ssh.Certificate).Key; !bytes.Equal(got.Marshal(), want.Marshal()) {
		t.Errorf("got host key %s, want %s", ssh.FingerprintSHA256(got), ssh.FingerprintSHA256(want))
	}
}

// A client is waited for until it offers a key, and longer after that: a person may have to touch a security
// key.
func TestAHandshakeThatStallsIsEnded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	cfg := f.cfg
	cfg.Log = slog.New(slog.DiscardHandler) // the fixture is outside of the bubbles
	serve := func(t *testing.T, client func(net.Conn)) time.Duration {
		near, far := net.Pipe()
		done := make(chan struct{})
		go func() { defer close(done); client(near) }()
		start := time.Now()
		from := netip.MustParseAddrPort("192.0.2.1:1")
		origin := sshd.Origin{From: from, Proxy: "proxy-1", Protocol: "dial"}
		sshd.New(cfg).Serve(t.Context(), far, origin)
		took := time.Since(start)
		near.Close()
		<-done
		return took
	}
	for name, first := range map[string]string{
		"silence":               "",
		"another protocol":      "GET / HTTP/1.1\r\n\r\n",
		"half a version":        "SSH-2.0",
		"a version and no more": "SSH-2.0-x\r\n",
		"half a packet":         "SSH-2.0-x\r\n\x00\x00\x01\x00\x08\x14",
	} {
		synctest.Test(t, func(t *testing.T) {
			took := serve(t, func(c net.Conn) {
				go func() { _, _ = io.WriteString(c, first) }()
				_, _ = io.Copy(io.Discard, c)
			})
			if took != 10*time.Second {
				t.Errorf("%s: got the connection held for %s, want 10s", name, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		untouched := ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
			<-gone
			return nil, errors.New("nobody touched the key")
		})
		took := serve(t, func(c net.Conn) {
			time.AfterFunc(time.Minute, func() { close(gone) })
			_, _, _, _ = ssh.NewClientConn(&asyncWriteConn{Conn: c}, "", &ssh.ClientConfig{
				User:            "x",
				Auth:            []ssh.AuthMethod{untouched},
				HostKeyCallback: ssh.InsecureIgnoreHostKey(),
			})
		})
		if took != 30*time.Second {
			t.Errorf("a key that nobody touches: got the connection held for %s, want 30s", took)
		}
	})
}

// asyncWriteConn is a pipe whose writes do not wait for the reader: both ends of SSH begin with a write.
type asyncWriteConn struct {
	net.Conn
	previous chan struct{} // closed once the previous write is done
}

func (p *asyncWriteConn) Write(b []byte) (int, error) {
	before, done := p.previous, make(chan struct{})
	p.previous = done
	b = bytes.Clone(b)
	go func() {
		defer close(done)
		if before != nil {
			<-before
		}
		_, _ = p.Conn.Write(b)
	}()
	return len(b), nil
}

// The server closes such connections by itself, and still serves others.
func TestGarbageBeforeLogin(t *testing.T) {
	t.Parallel()
	f := newFixture(t, nil)
	for name, bytes := range map[string]string{
		"a version and garbage": "SSH-2.0-x\r\n" + strings.Repeat("\xff", 100),
		"an endless version":    strings.Repeat("x", 1<<16),
	} {
		conn, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, bytes)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: got an open connection after 5 s, want it closed", name)
		}
		conn.Close()
	}
	f.client()
}
