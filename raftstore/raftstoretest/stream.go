package raftstoretest

import (
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Network connects the stream layers of replicas in one process. Its zero value is ready.
type Network struct {
	mu      sync.Mutex // guards streams
	streams map[raft.ServerAddress]*Stream
}

// Stream is one replica's raft.StreamLayer in a Network.
type Stream struct {
	network *Network
	address raft.ServerAddress
	conns   chan net.Conn

	once   sync.Once
	closed chan struct{}
}

// Listen makes the stream layer of a replica. An address may be used again once its Stream is closed.
func (n *Network) Listen(address string) *Stream {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.streams == nil {
		n.streams = map[raft.ServerAddress]*Stream{}
	}
	s := &Stream{
		network: n,
		address: raft.ServerAddress(address),
		conns:   make(chan net.Conn),
		closed:  make(chan struct{}),
	}
	n.streams[s.address] = s
	return s
}

// Accept waits for a replica that dials this one.
func (s *Stream) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Dial connects to another replica of the network. It waits until the other one accepts, for at most timeout.
func (s *Stream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s.network.mu.Lock()
	peer := s.network.streams[to]
	s.network.mu.Unlock()
	if peer == nil {
		return nil, errors.New("nobody listens on " + string(to))
	}
	ours, theirs := net.Pipe()
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case peer.conns <- theirs:
		return ours, nil
	case <-peer.closed:
		return nil, net.ErrClosed
	case <-timer.C:
		return nil, errors.New("no answer from " + string(to))
	}
}

// Close ends Accept. Connections that exist stay open.
func (s *Stream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr is the address that other replicas dial.
func (s *Stream) Addr() net.Addr { return address(s.address) }

type address string

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }
