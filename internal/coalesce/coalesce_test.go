package coalesce_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/internal/coalesce"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recordingConn records what is written, and the length of each write.
type recordingConn struct {
	net.Conn
	all    bytes.Buffer
	writes []int
	err    error
}

func (w *recordingConn) Write(b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.writes = append(w.writes, len(b))
	return w.all.Write(b)
}

// What is written between Hold and the last Release leaves by one write.
func TestHeldWritesLeaveInOnePiece(t *testing.T) {
	t.Parallel()
	var network recordingConn
	transport := coalesce.UnderTLS(&network)
	write := func(s string) {
		t.Helper()
		if n, err := io.WriteString(transport, s); n != len(s) || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, len(s))
		}
	}
	write("a")
	transport.Hold()
	write("b")
	transport.Hold() // by a second holder
	write("c")
	if err := transport.Release(); err != nil || len(network.writes) != 1 {
		t.Fatalf("got %v, %v with one holder left, want nothing more written", network.writes, err)
	}
	write("d")
	if err := transport.Release(); err != nil {
		t.Fatal(err)
	}
	write("e")
	if got := network.all.String(); got != "abcde" || !slices.Equal(network.writes, []int{1, 3, 1}) {
		t.Errorf("got %q in writes of %v, want abcde in 1, 3, 1", got, network.writes)
	}
}

// Held bytes beyond the limit leave before Release, in order and in bounded pieces.
func TestMoreThanTheLimitIsFlushedEarly(t *testing.T) {
	t.Parallel()
	var network recordingConn
	transport := coalesce.UnderTLS(&network)
	want := make([]byte, 1<<20)
	_, _ = rand.Read(want)
	transport.Hold()
	for part := range slices.Chunk(want, 16<<10) {
		if _, err := transport.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if err := transport.Release(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(network.all.Bytes(), want) || slices.Max(network.writes) > 64<<10 {
		t.Errorf(
			"got %d bytes in writes of up to %d, want all of them in pieces",
			network.all.Len(), slices.Max(network.writes),
		)
	}
}

// After a failed write a part of a record may have left, so nothing may follow it.
func TestAFailedWriteIsTheLast(t *testing.T) {
	t.Parallel()
	network := recordingConn{err: errors.New("gone")}
	transport := coalesce.UnderTLS(&network)
	transport.Hold()
	if _, err := transport.Write([]byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := transport.Release(); !errors.Is(err, network.err) {
		t.Errorf("got %v, want the error of the held write", err)
	}
	cause := network.err
	network.err = nil
	if _, err := transport.Write([]byte("b")); !errors.Is(err, cause) || len(network.writes) != 0 {
		t.Errorf("got %v and %v written, want the same error and nothing", err, network.writes)
	}
}

// tlsPair makes both ends of a TLS connection in memory. The server's end runs over what under returns.
func tlsPair(t *testing.T, under func(net.Conn) net.Conn) (server *tls.Conn, client *tls.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{"here"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	server = tls.Server(
		under(near),
		&tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	)
	return server, tls.Client(far, &tls.Config{RootCAs: roots, ServerName: "here"})
}

type countingConn struct {
	net.Conn
	writes int
}

func (c *countingConn) Write(b []byte) (int, error) { c.writes++; return c.Conn.Write(b) }

// One write of 40 KiB to TLS, which makes several records, is one write to the network.
func TestAWriteToTLSIsOneWriteToTheNetwork(t *testing.T) {
	t.Parallel()
	var network *countingConn
	server, client := tlsPair(
		t,
		func(c net.Conn) net.Conn { network = &countingConn{Conn: c}; return coalesce.UnderTLS(network) },
	)
	want := make([]byte, 40<<10) // three records, once TLS uses large ones
	_, _ = rand.Read(want)
	done := make(chan int, 1)
	go func() {
		defer close(done)
		if server.Handshake() != nil {
			return
		}
		before := network.writes
		if _, err := coalesce.Writer(server).Write(want); err == nil {
			done <- network.writes - before
		}
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got %v, or other bytes than were sent", err)
	}
	if writes := <-done; writes != 1 {
		t.Errorf("got %d writes, want 1", writes)
	}
}

func TestOtherConnectionsAreUnchanged(t *testing.T) {
	t.Parallel()
	near, _ := net.Pipe()
	server, _ := tlsPair(t, func(c net.Conn) net.Conn { return c })
	for _, c := range []net.Conn{near, server} {
		if coalesce.Conn(c) != c || coalesce.Writer(c) != io.Writer(c) || coalesce.TransportOf(c) != nil {
			t.Errorf("%T: got it wrapped, want it unchanged", c)
		}
	}
}

// After JoinPackets, a piece of 4096 bytes waits for the next one and leaves with it. Others leave at once.
func TestPacketsAreJoinedAfterTheHandshake(t *testing.T) {
	t.Parallel()
	var network recordingConn
	conn := coalesce.NewSSHConn(&network)
	first, second := make([]byte, 4096), make([]byte, 28_000)
	write := func(b []byte) {
		t.Helper()
		if n, err := conn.Write(b); n != len(b) || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, len(b))
		}
	}
	write(first) // a packet of the handshake may have this length
	conn.JoinPackets()
	write(first[:100])
	write(first)
	write(second)
	write(first[:36])
	write(first)
	write(first)
	if want := []int{4096, 100, 32_096, 36, 8192}; !slices.Equal(network.writes, want) {
		t.Errorf("got writes of %v, want %v", network.writes, want)
	}
}
