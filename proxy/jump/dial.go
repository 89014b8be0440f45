package jump

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// requestTimeout bounds the wait for a dial request after the TLS handshake.
	requestTimeout = 10 * time.Second
	// A refused client's bytes are drained, so that the refusal is read before a reset arrives.
	drainTimeout = 5 * time.Second
	drainBytes   = 64 << 10
)

// ServeDial serves one threshold-dial connection of a verified user until it ends or ctx does.
func (f *Server) ServeDial(ctx context.Context, conn net.Conn, user identity.Peer) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	log := f.cfg.Log.With(
		"user",
		user.Name,
		"login_id",
		user.LoginID,
		"from",
		conn.RemoteAddr(),
		"by",
		"dial",
	)
	leave, err := f.users.acquire(user.Identity)
	if err != nil {
		log.Info("refused", "err", err)
		refuse(conn, err)
		return
	}
	defer leave()
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	req, err := dial.ReadRequest(conn)
	if err != nil {
		refuse(
			conn,
			fault.Wrap(
				err,
				fault.Invalid,
				"proxy.dial",
				"the dial request could not be read",
				"check that client and proxy versions match: tsh version",
			),
		)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	node, err := f.dial(ctx, conn, user, req)
	if err != nil {
		public := fault.Public(err)
		log.Info("refused", "node", displayName(req.Node), "kind", public.Kind, "id", public.ID, "err", err)
		refuse(conn, public)
		return
	}
	log.Info("connected", "node", displayName(req.Node))
	relay(ctx, conn, node)
}

func (f *Server) dial(
	ctx context.Context,
	conn net.Conn,
	user identity.Peer,
	req dial.Request,
) (net.Conn, error) {
	if err := user.CheckSourceAddress(conn.RemoteAddr()); err != nil {
		return nil, fault.Wrap(err, fault.Denied, "proxy.dial", err.Error(), "run: tsh login")
	}
	node, _, err := f.openNode(ctx, caller{user.Identity, conn.RemoteAddr(), "dial"}, req.Node)
	if err != nil {
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	if err := dial.WriteReply(conn, dial.Reply{}); err != nil {
		node.Close()
		return nil, err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return node, nil
}

// refuse tells why, then reads for a while what the client has sent already.
func refuse(conn net.Conn, err error) {
	_ = conn.SetDeadline(time.Now().Add(drainTimeout))
	if dial.WriteReply(conn, dial.Reply{Fault: fault.Public(err)}) != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_, _ = io.CopyN(io.Discard, conn, drainBytes)
}
