package web

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/coder/websocket"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/egress"
)

// connKey finds, in a request's context, the connection that it came in.
type connKey struct{}

func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connect takes a WebSocket and hands its bytes to the port, as though they had just been accepted there. It
// is for tsh and machines, whose TLS is inside: a browser, which always says Origin with a WebSocket, has no
// business here, whichever page it shows.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	outer, ok := r.Context().Value(connKey{}).(net.Conn)
	switch {
	case !ok || s.cfg.Connect == nil || s.cfg.Transport != dial.WebSocket:
		http.Error(
			w,
			"This proxy takes no WebSockets: spec.proxy.transport is not websocket.",
			http.StatusNotFound,
		)
		return
	case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
		http.Error(w, "This address is not for browsers.", http.StatusForbidden)
		return
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{})
	if err != nil { // it has answered
		s.cfg.Log.Debug("no WebSocket", "from", r.RemoteAddr, "err", err)
		return
	}
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // guard left nothing else there
	s.cfg.Connect(outer, egress.NewStream(ws, local, net.TCPAddrFromAddrPort(from), s.cfg.KeepAlive))
}

// clientAddr is where a request comes from: its connection's other end or, where that is a listed balancer,
// the last address in X-Forwarded-For, which is the one that the balancer wrote itself. Its port is not known
// there, and 0.
func (s *Server) clientAddr(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !s.fromBalancer(peer.Addr()) {
		return r.RemoteAddr
	}
	lines := r.Header.Values("X-Forwarded-For")
	if len(lines) == 0 {
		return r.RemoteAddr
	}
	hops := strings.Split(lines[len(lines)-1], ",")
	if a, ok := parseForwarded(strings.TrimSpace(hops[len(hops)-1])); ok {
		return netip.AddrPortFrom(a, 0).String()
	}
	return r.RemoteAddr
}

// parseForwarded reads an address as balancers write it: bare, or with a port.
func parseForwarded(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(s, "[]"))
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}, false
		}
		a = ap.Addr()
	}
	return a.Unmap().WithZone(""), true
}

func (s *Server) fromBalancer(a netip.Addr) bool {
	return slices.ContainsFunc(
		s.cfg.Balancers,
		func(n netip.Prefix) bool { return n.Contains(a.Unmap().WithZone("")) },
	)
}
