package clustertest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"log/slog"
	"net/http"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/authrpc"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/fault/faulttest"
	"github.com/threshold-access/threshold/internal/identity"
)

// AuthProtocol is the auth service of the cluster, for Serve. It answers Join, Renew and SendEvents, and the
// routes that were given to Handle, HandleStream and Answer.
func (c *Cluster) AuthProtocol() Protocol {
	return Protocol{
		Name: identity.ALPNAuth,
		// A new one each time, because tests with synctest let days pass.
		Certificate: func() *tls.Certificate { return c.ServiceCertificate(identity.Auth, "auth-1") },
		ClientAuth:  tls.RequestClientCert,
		Handler:     http.HandlerFunc(c.serveCall),
	}
}

func (c *Cluster) serveCall(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	route := c.routes[r.URL.Path]
	c.mu.Unlock()
	if route == nil {
		http.NotFound(w, r)
		return
	}
	route.ServeHTTP(w, r)
}

// Handle lets fn answer the calls of a route from now on.
func Handle[Req, Res any](
	c *Cluster,
	route authrpc.Route[Req, Res],
	fn func(context.Context, authrpc.Caller, Req) (Res, error),
) {
	s := c.newServer()
	authrpc.Handle(s, route, fn)
	c.setRoute(route.Path(), s)
}

// HandleStream is Handle for a route with a stream of responses.
func HandleStream[Req, Res any](
	c *Cluster,
	route authrpc.Route[Req, Res],
	fn func(ctx context.Context, caller authrpc.Caller, req Req, send func(Res) error) error,
) {
	s := c.newServer()
	authrpc.HandleStream(s, route, fn)
	c.setRoute(route.Path(), s)
}

// Answer is Handle for an answer that depends only on the request.
func Answer[Req, Res any](c *Cluster, route authrpc.Route[Req, Res], fn func(Req) (Res, error)) {
	Handle(c, route, func(_ context.Context, _ authrpc.Caller, r Req) (Res, error) { return fn(r) })
}

// newServer makes a server for one route, because the routes of a server cannot be replaced.
func (c *Cluster) newServer() *authrpc.Server {
	return authrpc.NewServer(c.caller, slog.New(slog.DiscardHandler))
}

func (c *Cluster) setRoute(path string, s *authrpc.Server) {
	c.mu.Lock()
	c.routes[path] = s
	c.mu.Unlock()
}

// caller says who makes a request, by the client certificate. A caller without one is anonymous. One whose
// certificate is not of this cluster is refused, and after Refuse everybody is.
func (c *Cluster) caller(r *http.Request) (authrpc.Caller, error) {
	c.mu.Lock()
	refusal := c.refusal
	c.mu.Unlock()
	if refusal != nil {
		return authrpc.Caller{}, refusal
	}
	certs := r.TLS.PeerCertificates
	if len(certs) == 0 {
		return authrpc.Caller{}, nil
	}
	peer, err := c.VerifyPeer(certs, identity.User, identity.Node, identity.Proxy)
	if err != nil {
		return authrpc.Caller{}, faulttest.Wrap(err, fault.Denied, "auth",
			"this certificate is not of this cluster", "join or log in again")
	}
	return authrpc.Caller{
		Identity: peer.Identity,
		Key:      peer.Cert.PublicKey,
		Expired:  c.Now().After(peer.Cert.NotAfter),
	}, nil
}

var errTokenUsed = faulttest.New(
	fault.Expired,
	"auth.Join",
	"this join token was used already",
	"ask an administrator for a new one: tsh apply -f token.yaml",
)

// join serves the route Join: it makes the machine a member and issues its certificates. It refuses a token
// that was used already and a proof that does not verify. The token counts as used even after a wrong proof,
// as at the real auth.
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
		return res, faulttest.New(fault.Denied, "auth.Join", "the proof is wrong", "try again")
	}
	hostKey, err := ssh.ParsePublicKey(req.SSHKey)
	if err != nil {
		return res, err
	}
	c.mu.Lock()
	c.hostKeys[keyName(serviceKey)] = hostKey
	c.mu.Unlock()
	return c.issueFor(c.Machine(req.Kind, req.Name, req.Labels), serviceKey, hostKey), nil
}

// renew serves the route Renew: it issues new certificates for the keys that the caller joined with.
func (c *Cluster) renew(
	_ context.Context,
	caller authrpc.Caller,
	_ authrpc.RenewRequest,
) (res authrpc.RenewResponse, err error) {
	c.mu.Lock()
	c.renewals++
	hostKey := c.hostKeys[keyName(caller.Key)]
	c.mu.Unlock()
	if hostKey == nil {
		return res, faulttest.New(fault.Denied, "auth.Renew", "this machine has not joined", "join again")
	}
	return c.issueFor(caller.Identity, caller.Key, hostKey), nil
}

// issueFor returns the answer to a join or renewal of the machine id: certificates for its keys, and the
// rules. The function given to Corrupt, if there is one, changes the answer.
func (c *Cluster) issueFor(
	id identity.Identity,
	serviceKey crypto.PublicKey,
	hostKey ssh.PublicKey,
) authrpc.JoinResponse {
	res := authrpc.JoinResponse{
		Identity: id,
		SSHCert:  c.hostCert(hostKey, id.Name, id.Name+"."+Name, string(id.ID)).Marshal(),
		X509:     c.serviceChain(serviceKey, id, nil),
		Rules:    c.SignRules(),
		Time:     c.Now(),
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
			return res, err
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
