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

// serve answers join, renew and events on the listener until the test ends.
func (c *Cluster) serve(ln net.Listener) {
	c.addr = ln.Addr().String()
	s := authrpc.NewServer(c.caller, slog.New(slog.DiscardHandler))
	authrpc.Handle(s, authrpc.Join, c.join)
	authrpc.Handle(s, authrpc.Renew, c.renew)
	authrpc.Handle(s, authrpc.SendEvents, c.receiveEvents)
	web := &http.Server{
		Handler: s,
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, nc)
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
		_ = web.Serve(plainListener{tls.NewListener(ForwardedListener(ln), cfg)})
	}()
	c.t.Cleanup(func() {
		_ = web.Close()
		<-done
	})
}

// Dialer connects to the auth of a cluster that NewInMemory made. At any other address nothing listens.
func (c *Cluster) Dialer() authrpc.Dialer { return memoryDialer{c.memory} }

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

// plainConn hides its tls.Conn from net/http; caller finds it there.
type plainConn struct{ net.Conn }

// authCert makes a new certificate each time, so that it is valid whatever the cluster's clock says.
func (c *Cluster) authCert(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.ServiceCertificate(identity.Auth, "auth-1"), nil
}

// caller identifies the caller by the key of its certificate: a key that has joined is a member.
func (c *Cluster) caller(r *http.Request) (authrpc.Caller, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		return authrpc.Caller{}, c.refuse
	}
	certs := r.Context().Value(connKey{}).(plainConn).Conn.(*tls.Conn).ConnectionState().PeerCertificates
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

// join admits a machine whose token is unused and whose proof is right. It spends the token in any case.
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
	pub, err := x509.ParsePKIXPublicKey(req.X509Key)
	if err != nil {
		return res, err
	}
	sum := authrpc.JoinProof(req.Token, req.SSHKey, req.X509Key)
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], req.Proof) {
		return res, fault.New(fault.Denied, "auth.Join", "the proof is wrong", "try again")
	}
	host, err := ssh.ParsePublicKey(req.SSHKey)
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
	c.members[keyName(pub)], c.hostKeys[keyName(pub)] = id, host
	c.mu.Unlock()
	return c.answer(id, pub, host), nil
}

func (c *Cluster) renew(
	_ context.Context,
	caller authrpc.Caller,
	_ authrpc.RenewRequest,
) (authrpc.RenewResponse, error) {
	c.mu.Lock()
	c.renewals++
	host := c.hostKeys[keyName(caller.Key)]
	c.mu.Unlock()
	return c.answer(caller.Identity, caller.Key, host), nil
}

// answer issues certificates for both keys of a machine, as Corrupt changes them.
func (c *Cluster) answer(id identity.Identity, pub any, host ssh.PublicKey) authrpc.JoinResponse {
	now := c.Now()
	cert := &ssh.Certificate{
		Key:             host,
		CertType:        ssh.HostCert,
		ValidPrincipals: []string{id.Name, id.Name + "." + Name, string(id.ID)},
		Serial:          c.nextSerial().Uint64(),
		ValidAfter: uint64(
			now.Add(-identity.Skew).Unix(),
		),
		ValidBefore: uint64(now.Add(certificateLifetime).Unix()),
	}
	c.SignAsHostAuthority(cert)
	res := authrpc.JoinResponse{
		Identity: id,
		SSHCert:  cert.Marshal(),
		X509:     c.serviceCert(id, pub),
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
	default:
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
