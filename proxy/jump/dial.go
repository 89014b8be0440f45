package jump

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/rules"
)

const (
	// requestTimeout bounds reading the dial request, and writing the reply.
	requestTimeout = 10 * time.Second
	// After a refusal the client's bytes are read up to these limits. Closing earlier would send a reset,
	// and the client could lose the refusal.
	drainTimeout = 5 * time.Second
	drainBytes   = 64 << 10
)

// ServeDial serves one connection of a verified user, of the threshold-dial protocol of package dial: it
// takes a place in the user's quota, reads the dial request, opens a stream to the node, and relays until
// either end closes or ctx ends. It closes conn. If there is no stream, the client gets a reply with the
// fault that says why.
func (s *Server) ServeDial(ctx context.Context, conn net.Conn, user identity.Peer) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	id := identity.NewConnectionID()
	log := s.cfg.Log.With("user", user.Name, "login_id", user.LoginID,
		"from", conn.RemoteAddr(), "protocol", "dial", "connection", id)
	release, err := s.acquire(user.Identity)
	if err != nil {
		log.Info("user refused", "err", err)
		refuse(conn, err)
		return
	}
	defer release()
	ctx, cut := context.WithCancel(ctx)
	defer cut()
	_ = conn.SetDeadline(time.Now().Add(requestTimeout))
	req, err := dial.ReadRequest(conn)
	if err != nil {
		refuse(conn, requestFault(err))
		return
	}
	_ = conn.SetDeadline(time.Time{})
	node, err := s.dial(ctx, cut, conn, user, id, req)
	if err != nil {
		public := fault.Public(err)
		log.Info("connection to node refused",
			"node", displayName(req.Node), "kind", public.Kind, "id", public.ID, "err", err)
		refuse(conn, public)
		return
	}
	defer node.entry.Remove()
	log.Info("connected to node", "node", displayName(req.Node))
	if err := relay(ctx, conn, node.conn); err != nil {
		log.Warn("the node refused the connection", "node", displayName(req.Node), "err", err)
	}
}

// requestFault returns the fault for a dial request that could not be read. A client that is newer than this
// proxy is told so.
func requestFault(err error) error {
	if fault.Is(err, fault.Invalid) {
		return dialRequestTooNew.Wrap(err, "proxy.ServeDial", fault.Args{"why": fault.Message(err)})
	}
	return dialRequestInvalid.Wrap(err, "proxy.ServeDial")
}

// dial opens a stream to the node that req names and sends the client the reply that the stream is open. cut
// ends the relay. The error is a fault that the client has not been told of, or that of writing the reply.
func (s *Server) dial(
	ctx context.Context, cut context.CancelFunc,
	conn net.Conn, user identity.Peer, id identity.ConnectionID, req dial.Request,
) (nodeStream, error) {
	const op = "proxy.ServeDial"
	// The TLS handshake does not check this restriction, because TLS knows nothing of it.
	if err := user.CheckSourceAddress(conn.RemoteAddr()); err != nil {
		return nodeStream{}, dialCertificateInvalid.Wrap(err, op, fault.Args{"why": err.Error()})
	}
	who := s.dialCaller(user, conn.RemoteAddr(), req.Features)
	node, err := s.openNode(ctx, cut, who, id, req.Node)
	if err != nil {
		return nodeStream{}, err
	}
	_ = conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	reply := dial.Reply{NodeFeatures: node.features}
	trust := s.cfg.Rules.Current()
	locks := trust.Head.Docs[rules.MachineLocksKind].Revision
	reply.OfferMachineLocks(req, locks, trust.Set().Docs[rules.MachineLocksKind])
	if err := dial.WriteReply(conn, reply); err != nil {
		node.conn.Close()
		node.entry.Remove()
		return nodeStream{}, err
	}
	_ = conn.SetWriteDeadline(time.Time{})
	return node, nil
}

// refuse sends the error to the client and waits until the client has closed the connection, up to
// drainTimeout and drainBytes. The caller then closes conn.
func refuse(conn net.Conn, err error) {
	_ = conn.SetDeadline(time.Now().Add(drainTimeout))
	if dial.WriteReply(conn, dial.Reply{Fault: fault.Public(err)}) != nil {
		return
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the client reads the end of file and closes
	}
	_, _ = io.CopyN(io.Discard, conn, drainBytes)
}
