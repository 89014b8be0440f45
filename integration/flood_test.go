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
	// maxDialTime is how long a fresh login may take, whatever else goes on at the port.
	maxDialTime = time.Second
	// dials are made during each flood; one of them may meet a busy machine.
	dials = 11
	// A flood may cost the server so much memory and, once it is over, so many descriptors. The runtime gives
	// memory back late.
	floodMemory, floodFiles = 200 << 20, 16
)

// Strangers who fill the port, from somewhere else or from right beside somebody, keep nobody out: a fresh
// login, TLS, dial and SSH, is answered within a second. When they are gone, so is what they cost.
func TestUsersLogInDuringConnectionFloods(t *testing.T) {
	addr := harness.FreeAddr(t, "127.0.0.1")
	dir := t.TempDir()
	s := harness.StartServerFrom(
		t,
		dir,
		addr,
		harness.Bootstrap(t, harness.StartProvider(t, "127.0.0.1", addr), filepath.Join(dir, "seal.key")),
		"inner",
		"balancers: [127.0.0.6/32]",
		"proxy_protocol: true",
	)
	c := harness.NewClient(t)
	c.FirstLogin(s, harness.Alice())
	me, err := profile.Home(filepath.Join(c.Home, ".tsh")).Load(addr)
	if err != nil {
		t.Fatal(err)
	}
	pid := s.Process.Cmd.Process.Pid
	if took, err := dialTime(me, "127.0.0.1"); err != nil {
		t.Fatalf("got %v after %s before any flood", err, took)
	}
	files := descriptors(t, pid)
	hello := firstBytes(t, identity.ALPNAuth)
	for _, tt := range []struct {
		name   string
		from   string // who floods
		honest string // who logs in meanwhile
		size   int    // connections
		flood  func(f *flood)
	}{
		{"2,000 idle from elsewhere", "127.0.0.2", "127.0.0.1", 2000, func(f *flood) { f.hold(2000, nil) }},
		{"2,000 idle from the same address", "127.0.0.1", "127.0.0.1", 2000, func(f *flood) { f.hold(2000, nil) }},
		{"10,000 times garbage from elsewhere", "127.0.0.3", "127.0.0.1", 10_000, func(f *flood) { f.garbage(10_000) }},
		{"10,000 times garbage from the same address", "127.0.0.1", "127.0.0.1", 10_000, func(f *flood) { f.garbage(10_000) }},
		{"stalls at every stage, from elsewhere", "127.0.0.4", "127.0.0.1", 600, func(f *flood) { f.stall(me, hello, 60) }},
		{"stalls at every stage, from the same address", "127.0.0.5", "127.0.0.5", 200, func(f *flood) { f.stall(me, hello, 20) }},
		{"stalls in the PROXY header", "127.0.0.6", "127.0.0.1", 500, func(f *flood) { f.hold(500, []byte("PROXY TCP4 192.0.2")) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &flood{t: t, from: tt.from, to: addr}
			before := peakMemory(t, pid)
			running := make(chan struct{})
			go func() { defer close(running); tt.flood(f) }()
			<-f.underway()
			var times []time.Duration
			for range dials {
				took, err := dialTime(me, tt.honest)
				if err != nil {
					t.Errorf("got %v after %s, want to be let in", err, took)
				}
				times = append(times, took)
			}
			<-running
			slices.Sort(times)
			cost := peakMemory(t, pid) - before
			t.Logf(
				"fresh login: median %s, worst %s; memory +%d MB; %d connections held at the end of it",
				times[dials/2].Round(time.Millisecond),
				times[dials-1].Round(time.Millisecond),
				cost>>20,
				descriptors(t, pid)-files,
			)
			if times[dials-2] > maxDialTime {
				t.Errorf("got fresh logins answered in %v, want each within %s", times, maxDialTime)
			}
			if cost > floodMemory {
				t.Errorf("got %d MB more of memory, want at most %d", cost>>20, floodMemory>>20)
			}
			if n := f.end(); n < tt.size*9/10 {
				t.Errorf("got a flood of %d connections, want %d", n, tt.size)
			}
			settles(t, pid, files+floodFiles)
		})
	}
}

// dialTime logs in afresh and returns how long it took: TLS, the dial request and the SSH handshake with the
// node.
func dialTime(me *profile.Profile, from string) (took time.Duration, err error) {
	start := time.Now()
	defer func() { took = time.Since(start) }()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	raw, err := d.Dial("tcp", me.Proxy)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	own := func() (*tls.Certificate, error) { return &me.X509, nil }
	conn := tls.Client(
		raw,
		identity.PinnedTLS(me.Pin, me.Cluster, identity.ALPNDial, own, time.Now, identity.Proxy),
	)
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
	sc, _, _, err := ssh.NewClientConn(
		dial.Client(conn, dial.Request{Node: "inner"}),
		"",
		&ssh.ClientConfig{User: string(me.Logins[0]),
			Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey()},
	)
	if err != nil {
		return 0, err
	}
	return 0, sc.Close()
}

// flood is what strangers do from one address.
type flood struct {
	t        *testing.T
	from, to string

	once  sync.Once
	begun chan struct{}

	stuck sync.WaitGroup // in the middle of a connection

	mu   sync.Mutex // guards held and over
	held []net.Conn
	over bool
}

func (f *flood) underway() <-chan struct{} {
	f.once.Do(func() { f.begun = make(chan struct{}) })
	return f.begun
}

// started is called when the flood has reached its height, or all the time goes by at it.
func (f *flood) started() {
	f.underway()
	close(f.begun)
}

// open dials; nil where the machine or the port has had enough, which is what a flood is for.
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

// hold keeps n connections that say no more than first.
func (f *flood) hold(n int, first []byte) {
	for range n {
		if conn := f.open(); conn != nil {
			_, _ = conn.Write(first)
		}
	}
	f.started()
}

// garbage connects n times and says what nobody understands.
func (f *flood) garbage(n int) {
	f.started()
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

// stall stands still n times at each stage of a connection. Who has a certificate is me.
func (f *flood) stall(me *profile.Profile, hello []byte, n int) {
	own := func() (*tls.Certificate, error) { return &me.X509, nil }
	stages := []func(net.Conn){
		func(c net.Conn) { _, _ = c.Write([]byte{0x16}) },
		func(c net.Conn) { _, _ = c.Write(hello[:len(hello)/2]) },
		func(c net.Conn) { _, _ = c.Write(hello) }, // auth waits for the rest of TLS
		func(c net.Conn) { _, _ = c.Write([]byte("SS")) },
		func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x")) },
		func(c net.Conn) { _, _ = c.Write([]byte("SSH-2.0-x\r\n")) }, // before the key exchange
		func(c net.Conn) { // before the first key is shown
			_, _, _, _ = ssh.NewClientConn(
				c,
				"",
				&ssh.ClientConfig{User: "x", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
					Auth: []ssh.AuthMethod{
						ssh.PublicKeysCallback(
							func() ([]ssh.Signer, error) { _, _ = io.Copy(io.Discard, c); return nil, nil },
						),
					}},
			)
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
			_ = tls.Client(c, identity.PinnedTLS(me.Pin, me.Cluster, identity.ALPNDial, own, time.Now, identity.Proxy)).
				Handshake()
		},
	}
	for range n {
		for _, stage := range stages {
			if conn := f.open(); conn != nil {
				f.stuck.Go(func() { stage(conn) })
			}
		}
	}
	f.started()
}

// end hangs up, and returns how many connections there were.
func (f *flood) end() int {
	f.mu.Lock()
	f.over = true
	for _, c := range f.held {
		c.Close()
	}
	f.mu.Unlock()
	f.stuck.Wait()
	return len(f.held)
}

// firstBytes are what a TLS client sends first.
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

// settles waits until the process has at most so many open files.
func settles(t *testing.T, pid, most int) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for late := time.After(harness.Timeout); ; {
		n := descriptors(t, pid)
		if n <= most {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Errorf("got %d open files after the flood, want at most %d", n, most)
			return
		}
	}
}

// peakMemory is the most memory that a process has had.
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
