package egress

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// connectTimeout bounds the HTTP proxy's answer, for callers whose context has no end.
	connectTimeout = 30 * time.Second
	// maxReplyBytes bounds the head of its answer. It is also the longest line.
	maxReplyBytes = 8 << 10
)

// connectThrough opens a tunnel to addr through the HTTP proxy (RFC 9110 section 9.3.6).
func connectThrough(ctx context.Context, by *url.URL, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := dialProxy(ctx, by)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := requestTunnel(conn, by, addr)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, noReplyFault(by, err)
	}
	return tunnel, nil
}

// dialProxy connects to the HTTP proxy itself, whose own certificate is verified as any web site's: a
// password may be told to it.
func dialProxy(ctx context.Context, by *url.URL) (net.Conn, error) {
	port := by.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[by.Scheme]
	}
	at := net.JoinHostPort(by.Hostname(), port)
	conn, err := dialDirect(ctx, "tcp", at)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Unavailable,
			"egress",
			"the HTTP proxy at "+by.Host+" cannot be reached: "+fault.DescribeNetwork(err),
			"check HTTPS_PROXY (https_proxy in a file) and the network",
		)
	}
	if by.Scheme == "http" {
		return conn, nil
	}
	tc, err := handshake(
		ctx,
		conn,
		at,
		&tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}},
	)
	if err != nil {
		return nil, fault.Wrap(
			err,
			fault.Unavailable,
			"egress",
			"no TLS connection to the HTTP proxy at "+by.Host+": "+fault.DescribeNetwork(err),
			"check HTTPS_PROXY: http:// may be meant; if its authority is the company's own, name the file in SSL_CERT_FILE",
		)
	}
	return tc, nil
}

// requestTunnel asks for the tunnel and returns it, with what the other end has said already.
func requestTunnel(conn net.Conn, by *url.URL, addr string) (net.Conn, error) {
	var req bytes.Buffer
	fmt.Fprintf(&req, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: threshold\r\n", addr, addr)
	if u := by.User; u != nil {
		password, _ := u.Password()
		fmt.Fprintf(
			&req,
			"Proxy-Authorization: Basic %s\r\n",
			base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+password)),
		)
	}
	req.WriteString("\r\n")
	if _, err := conn.Write(req.Bytes()); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, maxReplyBytes)
	resp, err := readReply(r)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, refusalFault(resp, by, addr)
	}
	early, _ := r.Peek(r.Buffered()) // what is buffered can be peeked at
	if len(early) == 0 {
		return conn, nil
	}
	return &prefixedConn{Conn: conn, prefix: early}, nil
}

// errBadReply says that what came is no answer to CONNECT.
var errBadReply = errors.New("the answer is not HTTP, or too long")

// readReply reads the head of an HTTP answer and nothing behind it: that is the tunnel's.
func readReply(r *bufio.Reader) (*http.Response, error) {
	var head []byte
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, errBadReply
		}
		if err != nil {
			return nil, err
		}
		if head = append(head, line...); len(head) > maxReplyBytes {
			return nil, errBadReply
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			break
		}
	}
	resp, err := http.ReadResponse(
		bufio.NewReader(bytes.NewReader(head)),
		&http.Request{Method: http.MethodConnect},
	)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadReply, err)
	}
	resp.Body.Close()
	return resp, nil
}

// refusalFault is the HTTP proxy's no, in words. Nothing of its text is repeated: it may be anything.
func refusalFault(resp *http.Response, by *url.URL, addr string) error {
	at, to, status := "the HTTP proxy at "+by.Host, addr, fmt.Sprintf(
		"%d %s",
		resp.StatusCode,
		http.StatusText(resp.StatusCode),
	)
	wantsProof := resp.StatusCode == http.StatusProxyAuthRequired ||
		resp.StatusCode == http.StatusUnauthorized // tinyproxy says so to a wrong password
	switch {
	case wantsProof && !acceptsBasic(resp.Header):
		return fault.New(
			fault.Unauthenticated,
			"egress",
			at+" wants another proof than a password, which Threshold cannot give",
			"ask its administrator for a password, or to let "+to+" through without",
		)
	case wantsProof && by.User == nil:
		return fault.New(
			fault.Unauthenticated,
			"egress",
			at+" wants a password",
			"write HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT",
		)
	case wantsProof:
		return fault.New(
			fault.Unauthenticated,
			"egress",
			at+" does not accept the password for "+fmt.Sprintf("%q", by.User.Username()),
			"check user and password in HTTPS_PROXY; write what is odd in them as %XX",
		)
	case resp.StatusCode/100 == 5:
		return fault.New(
			fault.Unavailable,
			"egress",
			at+" gives no way to "+to+": "+status,
			"check the address; if it is right, try again in a minute",
		)
	}
	return fault.New(
		fault.Denied,
		"egress",
		at+" refuses CONNECT to "+to+": "+status,
		"ask its administrator to let "+to+" through, or set NO_PROXY where there is a straight way",
	)
}

// acceptsBasic reports whether a password would be accepted. A proxy that does not say is tried with one.
func acceptsBasic(h http.Header) bool {
	offers := h.Values("Proxy-Authenticate")
	for _, o := range offers {
		for part := range strings.SplitSeq(o, ",") {
			scheme, _, _ := strings.Cut(strings.TrimSpace(part), " ")
			if strings.EqualFold(scheme, "Basic") {
				return true
			}
		}
	}
	return len(offers) == 0
}

// noReplyFault says what a person should do about an HTTP proxy that did not answer CONNECT.
func noReplyFault(by *url.URL, err error) error {
	var said *fault.Error
	switch {
	case errors.As(err, &said):
		return err
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errBadReply):
		return fault.Wrap(
			err,
			fault.Invalid,
			"egress",
			"what answers at "+by.Host+" is no HTTP proxy",
			"check HTTPS_PROXY (https_proxy in a file): https:// may be meant, or another port",
		)
	}
	return fault.Wrap(
		err,
		fault.Unavailable,
		"egress",
		"the HTTP proxy at "+by.Host+" does not answer CONNECT: "+fault.DescribeNetwork(err),
		"check HTTPS_PROXY (https_proxy in a file), then try again",
	)
}

// prefixedConn is a tunnel whose first bytes came along with the HTTP proxy's answer.
type prefixedConn struct {
	net.Conn
	prefix []byte
}

func (b *prefixedConn) Read(p []byte) (int, error) {
	if len(b.prefix) == 0 {
		return b.Conn.Read(p)
	}
	n := copy(p, b.prefix)
	if b.prefix = b.prefix[n:]; len(b.prefix) == 0 {
		b.prefix = nil // let the buffer go
	}
	return n, nil
}
