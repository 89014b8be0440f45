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
	"github.com/threshold-access/threshold/internal/prefixconn"
)

const (
	// connectTimeout bounds the connection to the HTTP proxy and its reply, for callers whose context has no
	// deadline.
	connectTimeout = 30 * time.Second
	// maxReplyBytes bounds the header of the reply, and so each line of it.
	maxReplyBytes = 8 << 10
)

// connectThrough opens a tunnel to addr through the HTTP proxy (CONNECT, RFC 9110 section 9.3.6).
func connectThrough(ctx context.Context, proxy *url.URL, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := dialProxy(ctx, proxy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := requestTunnel(conn, proxy, addr)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, requestTunnelFault(proxy, err)
	}
	return tunnel, nil
}

// dialProxy connects to the HTTP proxy itself. Behind https:// its certificate is verified as a web site's,
// because the connection may carry a password.
func dialProxy(ctx context.Context, proxy *url.URL) (net.Conn, error) {
	port := proxy.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[proxy.Scheme]
	}
	addr := net.JoinHostPort(proxy.Hostname(), port)
	conn, err := dialDirect(ctx, "tcp", addr)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "egress",
			"the HTTP proxy at "+proxy.Host+" cannot be reached: "+fault.DescribeNetwork(err),
			"check HTTPS_PROXY (https_proxy in a file) and the network",
		)
	}
	if proxy.Scheme == "http" {
		return conn, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	tc, err := handshake(ctx, conn, addr, cfg)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "egress",
			"no TLS connection to the HTTP proxy at "+proxy.Host+": "+fault.DescribeNetwork(err),
			"check HTTPS_PROXY: it may need http://; "+
				"if a company's own authority signed the certificate, name its file in SSL_CERT_FILE",
		)
	}
	return tc, nil
}

// requestTunnel sends CONNECT and returns the tunnel. Bytes of the tunnel that came with the reply are not
// lost.
func requestTunnel(conn net.Conn, proxy *url.URL, addr string) (net.Conn, error) {
	var req bytes.Buffer
	fmt.Fprintf(&req, "CONNECT %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: threshold\r\n", addr, addr)
	if u := proxy.User; u != nil {
		password, _ := u.Password()
		basic := base64.StdEncoding.EncodeToString([]byte(u.Username() + ":" + password))
		fmt.Fprintf(&req, "Proxy-Authorization: Basic %s\r\n", basic)
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
		return nil, refusalFault(resp, proxy, addr)
	}
	early, _ := r.Peek(r.Buffered()) // cannot fail: it peeks only at what is buffered
	if len(early) == 0 {
		return conn, nil
	}
	return prefixconn.New(conn, early), nil
}

// errBadReply says that the bytes are no reply to CONNECT.
var errBadReply = errors.New("the reply is not HTTP, or too long")

// readReply reads the header of an HTTP response and nothing behind it, which belongs to the tunnel.
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
	request := &http.Request{Method: http.MethodConnect}
	resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadReply, err)
	}
	resp.Body.Close()
	return resp, nil
}

// refusalFault turns a refusal of the HTTP proxy into a fault. It repeats nothing of the response's text,
// which may hold anything.
func refusalFault(resp *http.Response, proxy *url.URL, addr string) error {
	at := "the HTTP proxy at " + proxy.Host
	status := fmt.Sprintf("%d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	// tinyproxy replies 401 rather than 407 to a wrong password.
	unauthenticated := resp.StatusCode == http.StatusProxyAuthRequired ||
		resp.StatusCode == http.StatusUnauthorized
	switch {
	case unauthenticated && !acceptsBasic(resp.Header):
		return fault.New(fault.Unauthenticated, "egress",
			at+" accepts no password, and Threshold supports no other authentication",
			"ask its administrator for a password, or to allow connections to "+addr+" without one",
		)
	case unauthenticated && proxy.User == nil:
		return fault.New(fault.Unauthenticated, "egress",
			at+" wants a password",
			"write HTTPS_PROXY as http://USER:PASSWORD@HOST:PORT",
		)
	case unauthenticated:
		return fault.New(fault.Unauthenticated, "egress",
			at+" does not accept the password for "+fmt.Sprintf("%q", proxy.User.Username()),
			"check user and password in HTTPS_PROXY; write special characters in them as %XX",
		)
	case resp.StatusCode/100 == 5:
		return fault.New(fault.Unavailable, "egress",
			at+" cannot connect to "+addr+": "+status,
			"check the address; if it is right, try again in a minute",
		)
	}
	return fault.New(fault.Denied, "egress",
		at+" refuses CONNECT to "+addr+": "+status,
		"ask its administrator to allow connections to "+addr+", or set NO_PROXY to connect directly",
	)
}

// acceptsBasic reports whether the HTTP proxy accepts a password. A proxy that names no scheme is assumed to.
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

// requestTunnelFault turns an error of requestTunnel into a fault. One that is a fault already stays as it
// is.
func requestTunnelFault(proxy *url.URL, err error) error {
	var refusal *fault.Error
	switch {
	case errors.As(err, &refusal):
		return err
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, errBadReply):
		return fault.Wrap(err, fault.Invalid, "egress",
			"the server at "+proxy.Host+" is not an HTTP proxy",
			"check HTTPS_PROXY (https_proxy in a file): it may need https://, or another port",
		)
	}
	return fault.Wrap(err, fault.Unavailable, "egress",
		"the HTTP proxy at "+proxy.Host+" does not answer CONNECT: "+fault.DescribeNetwork(err),
		"check HTTPS_PROXY (https_proxy in a file), then try again",
	)
}
