//go:build integration

package integration

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/integration/harness"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
)

const (
	// maxDialTime is how long a new connection to a node may take during a flood.
	maxDialTime = time.Second
	// dials is the number of new connections during each flood. One of them may be slower.
	dials = 11
	// A flood may cost the server floodMemory bytes, because the runtime returns memory late, and floodFiles
	// descriptors after it has ended.
	floodMemory, floodFiles = 200 << 20, 16
)

// Floods of connections without a login, from another address or from a user's own, keep nobody out: a new
// connection to a node (TLS, dial request, SSH) takes at most a second. After a flood its descriptors are
// closed again.
func TestUsersLogInDuringConnectionFloods(t *testing.T) {
	addr := harness.FreeAddr(t, "127.0.0.1")
	dir := t.TempDir()
	provider := harness.StartProvider(t, "127.0.0.1", addr)
	bootstrap := harness.Bootstrap(t, provider, filepath.Join(dir, "seal.key"))
	keys := []string{"balancers: [127.0.0.6/32]", "proxy_protocol: true"}
	s := harness.StartServerFrom(t, dir, addr, bootstrap, "inner", keys...)
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	me, err := profile.Home(filepath.Join(c.Home, ".tsh")).Load(harness.ClusterName)
	if err != nil {
		t.Fatal(err)
	}
	pid := s.Process.Cmd.Process.Pid
	if took, err := dialTime(me, "127.0.0.1"); err != nil {
		t.Fatalf("got %v after %s before any flood", err, took)
	}
	files := descriptors(t, pid)
	hello := firstBytes(t, identity.ALPNAuth)
	hold := func(n int, first string) func(*flood) { return func(f *flood) { f.hold(n, []byte(first)) } }
	stall := func(n int) func(*flood) { return func(f *flood) { f.stall(me, hello, n) } }
	garbage := func(f *flood) { f.garbage(10_000) }
	for _, tt := range []struct {
		name  string
		from  string // address of the flood
		user  string // address of the user who connects meanwhile
		size  int    // connections of the flood
		flood func(f *flood)
	}{
		{"2,000 idle connections from another address", "127.0.0.2", "127.0.0.1", 2000, hold(2000, "")},
		{"2,000 idle connections from the user's address", "127.0.0.1", "127.0.0.1", 2000, hold(2000, "")},
		{"10,000 times garbage from another address", "127.0.0.3", "127.0.0.1", 10_000, garbage},
		{"10,000 times garbage from the user's address", "127.0.0.1", "127.0.0.1", 10_000, garbage},
		{"stalls at every stage from another address", "127.0.0.4", "127.0.0.1", 600, stall(60)},
		{"stalls at every stage from the user's address", "127.0.0.5", "127.0.0.5", 200, stall(20)},
		{"stalls in the PROXY header", "127.0.0.6", "127.0.0.1", 500, hold(500, "PROXY TCP4 192.0.2")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &flood{t: t, from: tt.from, to: addr, atHeight: make(chan struct{})}
			before := peakMemory(t, pid)
			running := make(chan struct{})
			go func() { defer close(running); tt.flood(f) }()
			<-f.atHeight
			var times []time.Duration
			for range dials {
				took, err := dialTime(me, tt.user)
				if err != nil {
					t.Errorf("got %v after %s, want a connection", err, took)
				}
				times = append(times, took)
			}
			<-running
			slices.Sort(times)
			cost := peakMemory(t, pid) - before
			const format = "median %s, worst %s; memory +%d MB; %d descriptors at the end of the flood"
			median, worst := times[dials/2].Round(time.Millisecond), times[dials-1].Round(time.Millisecond)
			t.Logf(format, median, worst, cost>>20, descriptors(t, pid)-files)
			if times[dials-2] > maxDialTime {
				t.Errorf("got connections after %v, want each within %s", times, maxDialTime)
			}
			if cost > floodMemory {
				t.Errorf("got %d MB more of memory, want at most %d", cost>>20, floodMemory>>20)
			}
			if n := f.end(); n < tt.size*9/10 {
				t.Errorf("got a flood of %d connections, want %d", n, tt.size)
			}
			harness.Eventually(t, "the server has closed the descriptors of the flood", func() bool {
				return descriptors(t, pid) <= files+floodFiles
			})
		})
	}
}

// dialTime connects to the node from an address, and returns how long that took: TLS, the dial request and
// the SSH handshake with the node.
func dialTime(me *profile.Profile, from string) (took time.Duration, err error) {
	start := time.Now()
	defer func() { took = time.Since(start) }()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	raw, err := d.Dial("tcp", me.FirstProxy().Address)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	own := func() (*tls.Certificate, error) { return &me.X509, nil }
	conf := identity.PinnedTLS(me.Pin, me.Cluster, identity.ALPNDial, own, time.Now, identity.Proxy)
	conn := tls.Client(raw, conf)
	if err := conn.Handshake(); err != nil {
		return 0, err
	}
	plain, err := ssh.NewSignerFromSigner(me.SSHKey)
	if err != nil {
		return 0, err
	}
	signer, err := ssh.NewCertSigner(me.SSHCert, plain)
	if err != nil {
		return 0, err
	}
	sc, _, _, err := ssh.NewClientConn(dial.Client(conn, dial.Request{Node: "inner"}), "", &ssh.ClientConfig{
		User:            string(me.Logins[0]),
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return 0, err
	}
	return 0, sc.Close()
}

// flood is many connections from one address to the public port.
type flood struct {
	t        *testing.T
	from, to string

	atHeight chan struct{} // closed when the flood is at its height

	stalled sync.WaitGroup // connections that stall in the middle of a handshake

	mu   sync.Mutex // guards held and over
	held []net.Conn // all connections
	over bool       // end was called
}

// open connects. It returns nil when the server or the machine accepts no more connections.
func (f *flood) open() net.Conn {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(f.from)}, Timeout: 5 * time.Second}
	conn, err := d.Dial("tcp", f.to)
	if err != nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		conn.Close()
		return nil
	}
	f.held = append(f.held, conn)
	return conn
}

// hold keeps n connections open on which only first is sent.
func (f *flood) hold(n int, first []byte) {
	for range n {
		if conn := f.open(); conn != nil {
			_, _ = conn.Write(first)
		}
	}
	close(f.atHeight)
}

// garbage connects n times and sends bytes of no known protocol.
func (f *flood) garbage(n int) {
	close(f.atHeight)
	var workers sync.WaitGroup
	for range 20 {
		workers.Go(func() {
			for range n / 20 {
				if conn := f.open(); conn != nil {
					_, _ = conn.Write([]byte("\x00\x01garbage\r\n\r\n"))
					_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
					_, _ = io.Copy(io.Discard, conn)
					conn.Close()
				}
			}
		})
	}
	workers.Wait()
}

// stall opens n connections for each stage of a handshake and stalls there. It uses the certificate of me
// where one is needed.
func (f *flood) stall(me *profile.Profile, hello []byte, n int) {
	own := func() (*tls.Certificate, error) { return &me.X509, nil }
	stages := []func(net.Conn){
		func(c net.Conn) { _, _ = c.Write([]byte{0x16}) },
		func(c net.Conn) { _, _ = c.Write(hello[:len(hello)/2]) },
		func(c net.Conn) { _, _ = c.Write(hello) }, // auth waits for the rest of the handshake
		func(c net.Conn) { _, _ = c.Write([]byte("SS")) },
		func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x")) },
		func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n")) }, // before the key exchange
		func(c net.Conn) { // before authentication
			block := func() ([]ssh.Signer, error) { _, _ = io.Copy(io.Discard, c); return nil, nil }
			_, _, _, _ = ssh.NewClientConn(c, "", &ssh.ClientConfig{
				User:            "x",
				HostKeyCallback: ssh.InsecureIgnoreHostKey(),
				Auth:            []ssh.AuthMethod{ssh.PublicKeysCallback(block)},
			})
		},
		func(c net.Conn) { // in the middle of an HTTP header
			tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
			if tc.Handshake() == nil {
				_, _ = io.WriteString(tc, "GET / HTTP/1.1\r\nHost: ")
			}
		},
		func(c net.Conn) { // after the preface of HTTP/2
			tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if tc.Handshake() == nil {
				_, _ = io.WriteString(tc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			}
		},
		func(c net.Conn) { // before the dial request
			conf := identity.PinnedTLS(me.Pin, me.Cluster, identity.ALPNDial, own, time.Now, identity.Proxy)
			_ = tls.Client(c, conf).Handshake()
		},
	}
	for range n {
		for _, stage := range stages {
			if conn := f.open(); conn != nil {
				f.stalled.Go(func() { stage(conn) })
			}
		}
	}
	close(f.atHeight)
}

// end closes all connections, and returns how many there were.
func (f *flood) end() int {
	f.mu.Lock()
	f.over = true
	for _, c := range f.held {
		c.Close()
	}
	f.mu.Unlock()
	f.stalled.Wait()
	return len(f.held)
}

// firstBytes are the bytes of a ClientHello with the ALPN name.
func firstBytes(t *testing.T, alpn string) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}}).Handshake()
		near.Close()
	}()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return b[:n]
}

// descriptors counts a process's open files.
func descriptors(t *testing.T, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// peakMemory is the highest resident memory of a process so far, in bytes.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
