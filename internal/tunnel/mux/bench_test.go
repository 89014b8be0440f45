package mux

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
)

// sessionPair makes both ends of a session with the settings of a tunnel.
func sessionPair(dialer, acceptor net.Conn) (near, far *Session) {
	c := withBounds(Config{KeepAlive: 25 * time.Second})
	atDialer := c
	atDialer.Dialer = true
	return New(dialer, atDialer), New(acceptor, c)
}

// tlsPairs returns a function that makes TLS connections over loopback.
func tlsPairs(b *testing.B) func() (dialer, acceptor net.Conn) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		b.Fatal(err)
	}
	config := &tls.Config{
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify: true, // both ends are in this test
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { listener.Close() })
	return func() (dialer, acceptor net.Conn) {
		out, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		in, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		client := tls.Client(coalesce.UnderTLS(out), config)
		server := tls.Server(coalesce.UnderTLS(in), config)
		done := make(chan error, 1)
		go func() { done <- server.Handshake() }()
		if err := client.Handshake(); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		return client, server
	}
}

// BenchmarkThroughput moves data over one stream in writes of 32 KiB.
func BenchmarkThroughput(b *testing.B) {
	near, far := sessionPair(tlsPairs(b)())
	defer near.Close()
	defer far.Close()
	out, in := openPair(b, far, near)
	piece, room := make([]byte, 32<<10), make([]byte, 32<<10)
	b.SetBytes(int64(len(piece)))
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for range b.N {
			_, _ = out.Write(piece) // the reader notices what is missing
		}
	}()
	for range b.N {
		if _, err := io.ReadFull(in, room); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEcho sends a keystroke and its echo.
func BenchmarkEcho(b *testing.B) {
	near, far := sessionPair(tlsPairs(b)())
	defer near.Close()
	defer far.Close()
	out, in := openPair(b, far, near)
	go func() { _, _ = io.Copy(in, in) }()
	key := make([]byte, 36)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := out.Write(key); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(out, key); err != nil {
			b.Fatal(err)
		}
	}
}

func inUse() (bytes, goroutines int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse), runtime.NumGoroutine()
}

// BenchmarkIdleTunnels reports memory and goroutines of one end of an idle session with one open stream that
// nobody reads, less what the TLS connection below takes. Both ends are in this process, so it halves.
func BenchmarkIdleTunnels(b *testing.B) {
	const tunnels = 300
	dial := tlsPairs(b)
	var conns [2 * tunnels]net.Conn
	before, _ := inUse()
	for i := range tunnels {
		conns[2*i], conns[2*i+1] = dial()
	}
	base, goroutines := inUse()
	var sessions []*Session
	for i := range tunnels {
		near, far := sessionPair(conns[2*i], conns[2*i+1])
		openPair(b, near, far)
		sessions = append(sessions, near, far)
	}
	after, more := inUse()
	b.ReportMetric(float64(base-before)/(2*tunnels), "B-TLS/end")
	b.ReportMetric(float64(after-base)/(2*tunnels), "B/end")
	b.ReportMetric(float64(more-goroutines)/(2*tunnels), "goroutines/end")
	for _, s := range sessions {
		s.Close()
	}
}

// BenchmarkUnreadStreams reports the memory that 4,000 streams take whose opener sends as much as it may and
// that nobody reads.
func BenchmarkUnreadStreams(b *testing.B) {
	const streams = 4000
	near, far := sessionPair(tlsPairs(b)())
	before, _ := inUse()
	kept := make([]net.Conn, 0, 2*streams)
	junk := make([]byte, 1<<20)
	for range streams {
		out, in := openPair(b, near, far)
		_ = out.SetWriteDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = out.Write(junk) // ends by the deadline
		kept = append(kept, out, in)
	}
	after, _ := inUse()
	b.ReportMetric(float64(after-before)/(1<<20), "MiB")
	near.Close()
	far.Close()
	runtime.KeepAlive(kept)
}
