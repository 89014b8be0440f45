package clustertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/testnet"
)

// serve serves the routes join, renew and events on ln until the test ends, as auth does: over TLS, with
// clients that connect directly or through a proxy that forwards their address.
func (c *Cluster) serve(ln net.Listener) {
	c.addr = ln.Addr().String()
	routes := authrpc.NewServer(c.caller, slog.New(slog.DiscardHandler))
	authrpc.Handle(routes, authrpc.Join, c.join)
	authrpc.Handle(routes, authrpc.Renew, c.renew)
	authrpc.Handle(routes, authrpc.SendEvents, c.receiveEvents)
	server := &http.Server{
		Handler: routes,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, conn)
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	cfg := &tls.Config{
		GetCertificate: c.authCert,
		NextProtos:     []string{identity.ALPNAuth},
		ClientAuth:     tls.RequestClientCert,
		MinVersion:     tls.VersionTLS13,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(plainListener{tls.NewListener(ForwardedListener(ln), cfg)})
	}()
	c.t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
}

// Dialer connects to the auth of a cluster that NewInMemory made. At any other address nothing listens.
func (c *Cluster) Dialer() authrpc.Dialer { return memoryDialer{c.memoryListener} }

type memoryDialer struct{ auth *testnet.Listener }

func (d memoryDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	if addr != d.auth.Addr().String() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	}
	conn, err := d.auth.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	tc := tls.Client(conn, cfg)
	if err := tc.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return tc, nil
}

// connKey is the context key of a request's connection.
type connKey struct{}

// plainListener hides that its connections are TLS, because net/http closes connections with an ALPN name
// that it does not know.
type plainListener struct{ net.Listener }

func (l plainListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return plainConn{conn}, nil
}

// plainConn hides its tls.Conn from net/http. Cluster.caller takes the tls.Conn out of it.
type plainConn struct{ net.Conn }

// authCert makes a new certificate each time, so that it is valid whatever the cluster's clock says.
func (c *Cluster) authCert(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.ServiceCertificate(identity.Auth, "auth-1"), nil
}

// caller says who makes a request, by the key of its client certificate: the machine that joined with that
// key. A caller without a certificate is anonymous. A key that has not joined is refused.
func (c *Cluster) caller(r *http.Request) (authrpc.Caller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refusal != nil {
		return authrpc.Caller{}, c.refusal
	}
	conn := r.Context().Value(connKey{}).(plainConn).Conn.(*tls.Conn)
	certs := conn.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return authrpc.Caller{}, nil
	}
	id, known := c.members[keyName(certs[0].PublicKey)]
	if !known {
		return authrpc.Caller{}, fault.New(fault.Denied, "auth", "this machine was removed", "join again")
	}
	return authrpc.Caller{
		Identity: id,
		Key:      certs[0].PublicKey,
		Expired:  c.Now().After(certs[0].NotAfter),
	}, nil
}

// join serves the route of the same name: it makes the machine a member and issues its certificates. It
// refuses a token that was used already and a proof that does not verify. The token counts as used even after
// a wrong proof, as at the real auth.
func (c *Cluster) join(
	_ context.Context,
	_ authrpc.Caller,
	req authrpc.JoinRequest,
) (res authrpc.JoinResponse, err error) {
	c.mu.Lock()
	unused := c.tokens[req.Token]
	c.tokens[req.Token] = false
	c.mu.Unlock()
	if !unused {
		return res, errTokenUsed
	}
	serviceKey, err := x509.ParsePKIXPublicKey(req.X509Key)
	if err != nil {
		return res, err
	}
	sum := authrpc.JoinProof(req.Token, req.SSHKey, req.X509Key)
	if !ecdsa.VerifyASN1(serviceKey.(*ecdsa.PublicKey), sum[:], req.Proof) {
		return res, fault.New(fault.Denied, "auth.Join", "the proof is wrong", "try again")
	}
	hostKey, err := ssh.ParsePublicKey(req.SSHKey)
	if err != nil {
		return res, err
	}
	id := identity.Identity{
		Kind:    req.Kind,
		Cluster: Name,
		Name:    req.Name,
		ID:      newMachineID(),
		Labels:  req.Labels,
	}
	c.mu.Lock()
	c.members[keyName(serviceKey)], c.hostKeys[keyName(serviceKey)] = id, hostKey
	c.mu.Unlock()
	return c.issueFor(id, serviceKey, hostKey), nil
}

// renew serves the route of the same name: it issues new certificates for the keys that the caller joined
// with.
func (c *Cluster) renew(
	_ context.Context,
	caller authrpc.Caller,
	_ authrpc.RenewRequest,
) (authrpc.RenewResponse, error) {
	c.mu.Lock()
	c.renewals++
	hostKey := c.hostKeys[keyName(caller.Key)]
	c.mu.Unlock()
	return c.issueFor(caller.Identity, caller.Key, hostKey), nil
}

// issueFor returns the answer to a join or renewal of the machine id: certificates for its keys, and the
// rules. The function given to Corrupt, if there is one, changes the answer.
func (c *Cluster) issueFor(id identity.Identity, serviceKey any, hostKey ssh.PublicKey) authrpc.JoinResponse {
	now := c.Now()
	hostCert := &ssh.Certificate{
		Key:             hostKey,
		CertType:        ssh.HostCert,
		ValidPrincipals: []string{id.Name, id.Name + "." + Name, string(id.ID)},
		Serial:          c.nextSerial().Uint64(),
		ValidAfter:      uint64(now.Add(-identity.Skew).Unix()),
		ValidBefore:     uint64(now.Add(certificateLifetime).Unix()),
	}
	c.SignAsHostAuthority(hostCert)
	res := authrpc.JoinResponse{
		Identity: id,
		SSHCert:  hostCert.Marshal(),
		X509:     c.serviceCert(id, serviceKey),
		Rules:    c.SignRules(),
		Time:     now,
	}
	c.mu.Lock()
	corrupt := c.corrupt
	c.mu.Unlock()
	if corrupt != nil {
		corrupt(&res)
	}
	return res
}

// receiveEvents serves the route SendEvents: it keeps the events for Events. It refuses all of them if one is
// malformed.
func (c *Cluster) receiveEvents(
	_ context.Context,
	_ authrpc.Caller,
	req authrpc.SendEventsRequest,
) (res authrpc.SendEventsResponse, err error) {
	for _, e := range req.Events {
		if err := e.Check(); err != nil {
			return res, fault.Wrap(err, fault.Invalid, "auth.SendEvents", err.Error(), "update this machine")
		}
	}
	c.mu.Lock()
	c.events = append(c.events, req.Events...)
	c.mu.Unlock()
	select {
	case c.eventsSeen <- struct{}{}:
	default: // the test has not read the last signal yet, which stands for these events too
	}
	return res, nil
}

// keyName is a public key as a map key.
func keyName(pub any) string {
	der, _ := x509.MarshalPKIXPublicKey(pub)
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func newMachineID() identity.MachineID {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return identity.MachineID(hex.EncodeToString(b[:]))
}

func marshal(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// SkewedClock is a clock that is ahead by d.
func SkewedClock(d time.Duration) func() time.Time {
	return func() time.Time { return time.Now().Add(d) }
}
