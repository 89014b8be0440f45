// Package clustertest answers: which cluster is there in a test?
//
// A Cluster has real authorities. It issues certificates, signs rules and serves the calls of auth, with
// answers that a test can replace route by route. It stores nothing and decides nothing: tests of decisions
// use the real auth service.
package clustertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"math/big"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
)

// Name is the name of every cluster of this package.
const Name = "test.example.com"

// Cluster is a cluster for tests. It is safe for concurrent use.
type Cluster struct {
	t              testing.TB
	root           authority
	services       authority
	users          authority
	userSSH        ssh.Signer
	hostSSH        ssh.Signer
	rulesKey       ed25519.PrivateKey
	addr           string            // of auth
	memoryListener *testnet.Listener // nil for a cluster on a loopback port

	mu       sync.Mutex // guards the fields below
	serial   int64
	heads    uint64 // that were signed
	term     uint64 // of the heads, less one
	roles    []access.Role
	settings access.Settings
	locks    []access.Lock // of machines
	// rolesIndex, settingsIndex and locksIndex count the changes of each.
	rolesIndex, settingsIndex, locksIndex uint64

	routes     map[string]http.Handler // by path: see Handle
	tokens     map[string]bool         // true: unused
	events     []audit.Event
	renewals   int
	refusal    error
	corrupt    func(*authrpc.JoinResponse)
	hostKeys   map[string]ssh.PublicKey // of the machines that joined, by service key
	eventsSeen chan struct{}            // of capacity 1
}

// New makes a cluster with new keys, and serves its auth on a loopback port until the test ends.
func New(t testing.TB) *Cluster {
	t.Helper()
	c := newCluster(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	c.must(err)
	c.serveAuth(ln)
	return c
}

// NewInMemory is New without a port: only its Dialer connects to auth. It can be used with testing/synctest.
func NewInMemory(t testing.TB) *Cluster {
	t.Helper()
	c := newCluster(t)
	c.memoryListener = testnet.Listen(testnet.ListenAddr)
	c.serveAuth(c.memoryListener)
	return c
}

func newCluster(t testing.TB) *Cluster {
	c := &Cluster{
		t:          t,
		routes:     map[string]http.Handler{},
		tokens:     map[string]bool{},
		hostKeys:   map[string]ssh.PublicKey{},
		eventsSeen: make(chan struct{}, 1),
	}
	c.makeAuthorities()
	Handle(c, authrpc.Join, c.join)
	Handle(c, authrpc.Renew, c.renew)
	Handle(c, authrpc.SendEvents, c.receiveEvents)
	return c
}

func (c *Cluster) serveAuth(ln net.Listener) {
	c.addr = ln.Addr().String()
	Serve(c.t, ln, c.AuthProtocol())
}

// Now is the cluster's clock: that of the machine or, in a bubble of synctest, that of the bubble.
func (c *Cluster) Now() time.Time { return time.Now() }

// SkewedClock is a clock that is ahead by d.
func SkewedClock(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(d) }
}

// Addr is the address of auth.
func (c *Cluster) Addr() string { return c.addr }

// Token makes a join token.
func (c *Cluster) Token(kind identity.Kind) string {
	tok := authrpc.Token{Kind: kind, Pin: c.Pin()}
	_, _ = rand.Read(tok.Secret[:])
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[tok.String()] = true
	return tok.String()
}

// Refuse makes every call fail with err until it is called with nil.
func (c *Cluster) Refuse(err error) { c.mu.Lock(); c.refusal = err; c.mu.Unlock() }

// Corrupt makes fn change auth's answers to joins and renewals until Corrupt is called with nil.
func (c *Cluster) Corrupt(fn func(*authrpc.JoinResponse)) { c.mu.Lock(); c.corrupt = fn; c.mu.Unlock() }

// Renewals counts renewals served.
func (c *Cluster) Renewals() int { c.mu.Lock(); defer c.mu.Unlock(); return c.renewals }

// Events lists the events that were sent.
func (c *Cluster) Events() []audit.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// EventsSeen has a value when events came since it was last read.
func (c *Cluster) EventsSeen() <-chan struct{} { return c.eventsSeen }

// SetSettings replaces the settings, for the rules that are signed from now on.
func (c *Cluster) SetSettings(s access.Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings = s
	c.settingsIndex++
}

// SetRoles replaces the roles, for the rules that are signed from now on.
func (c *Cluster) SetRoles(roles ...access.Role) {
	c.mu.Lock()
	c.roles = roles
	c.rolesIndex++
	c.mu.Unlock()
}

// SetMachineLocks replaces the locks of machines, for the rules that are signed from now on.
func (c *Cluster) SetMachineLocks(locks ...access.Lock) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.locks = locks
	c.locksIndex++
}

func (c *Cluster) nextSerial() *big.Int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.serial++
	return big.NewInt(c.serial)
}

// must fails the test on an error and ends the goroutine: the test's own, or that of one connection.
func (c *Cluster) must(err error) {
	if err != nil {
		c.t.Helper()
		c.t.Fatal(err)
	}
}

func (c *Cluster) marshal(v any) []byte {
	b, err := json.Marshal(v)
	c.must(err)
	return b
}
