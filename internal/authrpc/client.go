package authrpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/keepalive"
)

const (
	// connectTimeout bounds opening a connection: TCP, an HTTP proxy or a balancer on the way, and TLS.
	connectTimeout = 15 * time.Second
	// callTimeout bounds a call whose context has no deadline. Streams have none.
	callTimeout = 30 * time.Second
)

// Client calls the auth service, directly or through a proxy. It is safe for concurrent use.
type Client struct {
	addr string
	http *http.Client
}

// Dialer opens TLS connections: egress.Dialer is one. DialTLS finishes the handshake before it returns.
type Dialer interface {
	DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error)
}

// NewClient makes a client for the address (host:port of an auth port or of a proxy), to which it connects
// directly. cfg says which servers to trust and which certificate to send: see identity.PinnedTLS.
func NewClient(addr string, cfg *tls.Config) *Client {
	return NewClientWithDialer(directDialer{}, addr, cfg)
}

// NewClientWithDialer is NewClient for a client that connects through dialer.
func NewClientWithDialer(dialer Dialer, addr string, cfg *tls.Config) *Client {
	return &Client{addr: addr, http: &http.Client{Transport: &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, connectTimeout)
			defer cancel()
			conn, err := dialer.DialTLS(ctx, addr, cfg)
			if err != nil {
				return nil, err // returning conn would make a net.Conn that is not nil from a nil *tls.Conn
			}
			return conn, nil
		},
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     time.Minute,
	}}}
}

// directDialer connects by TCP, without an HTTP proxy.
type directDialer struct{}

func (directDialer) DialTLS(ctx context.Context, addr string, cfg *tls.Config) (*tls.Conn, error) {
	d := tls.Dialer{NetDialer: keepalive.Dialer(), Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return conn.(*tls.Conn), nil // a tls.Dialer returns nothing else
}

// Close closes idle connections. The client can still be used: its next call opens a new connection, and
// sends the client certificate that is current then.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call sends req to route r and returns the response. It waits until ctx ends, or for callTimeout if ctx has
// no deadline. The error is the *fault.Error with which the auth service refused the call; or a *fault.Error
// of the client for a server that cannot be reached or is not trusted; or context.Canceled if ctx was
// cancelled.
func Call[Req, Res any](ctx context.Context, c *Client, r Route[Req, Res], req Req) (res Res, err error) {
	if _, hasDeadline := ctx.Deadline(); !hasDeadline {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	body, err := c.post(ctx, r.Path(), req)
	if err != nil {
		return res, err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, MaxAnswerBytes)).Decode(&res); err != nil {
		return res, authAnswerIncomplete.Wrap(err, r.Name)
	}
	return res, nil
}

// Stream sends req to the streaming route r, and calls receive with each message of the response, in order.
// It returns when ctx ends, with the error of ctx; when receive fails, with its error; and when the stream
// ends, with a fault of kind Unavailable. It never returns nil. If the server refuses the call, Stream
// returns the same errors as Call.
func Stream[Req, Res any](
	ctx context.Context,
	c *Client,
	r Route[Req, Res],
	req Req,
	receive func(Res) error,
) error {
	body, err := c.post(ctx, r.Path(), req)
	if err != nil {
		return err
	}
	defer body.Close()
	limited := &io.LimitedReader{R: body}
	dec := json.NewDecoder(limited)
	for {
		limited.N = MaxAnswerBytes // for each message anew
		var res Res
		if err := dec.Decode(&res); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return authStreamEnded.Wrap(err, r.Name)
		}
		if err := receive(res); err != nil {
			return err
		}
	}
}

// post sends a request and returns the body of the response, which the caller closes. Any status other than
// 200 is a refusal: post returns the fault in the body as the error.
func (c *Client) post(ctx context.Context, path string, req any) (io.ReadCloser, error) {
	b, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("encode request: %w", err)
	}
	hr, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://auth"+path, bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	hr.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(hr)
	if err != nil {
		return nil, c.explainCallError(path, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, MaxBodyBytes))
	return nil, fault.Decode(text)
}

// explainCallError turns an error of the transport into a fault that says what to do. It returns an error
// that is a fault already as it is: the dialer makes those, as for an HTTP proxy that wants a password. It
// also returns an error about a cancelled context as it is, because nothing went wrong.
func (c *Client) explainCallError(path string, err error) error {
	var wrongPin *identity.PinError
	var expired *identity.ExpiredError
	var alert *net.OpError
	var dialerFault *fault.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &dialerFault):
		return dialerFault
	case errors.As(err, &wrongPin):
		return authPinWrong.Wrap(err, path, fault.Args{"address": c.addr, "pin": wrongPin.Want.String()})
	case errors.As(err, &expired):
		return authCertificateExpired.Wrap(err, path, fault.Args{"why": expired.Error()})
	case errors.As(err, &alert) && alert.Op == "remote error": // an alert of the peer, as crypto/tls names it
		return clientCertificateRefused.Wrap(err, path)
	}
	return authUnreachable.Wrap(err, path, fault.Args{"address": c.addr, "why": fault.DescribeNetwork(err)})
}
