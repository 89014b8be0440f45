package asaccount

import (
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/threshold-access/threshold/node/process"
)

// helperArg is the argument by which the helper knows its work.
const helperArg = "__threshold_session_sockets_v1"

const (
	// maxPending is how many accepted connections may wait until the agent takes them.
	maxPending = 64
	// lingerTime bounds the delivery of what was sent, once the sender has closed its connection.
	lingerTime = 10 * time.Second
	// acceptPause is the wait after a failed accept, for example without free descriptors.
	acceptPause = 100 * time.Millisecond
	// copyBytes is the size of copy buffers, which are pooled.
	copyBytes = 32 << 10
)

// RunHelper does the work of the account helper if this process was started as one, and returns the status to
// exit with. ok is false if it was not; then nothing has happened. Every program that embeds a node calls it
// first in main, beside process.RunHelper.
func RunHelper() (code int, ok bool) {
	args, ok := process.HelperArgs()
	if !ok || len(args) != 1 || args[0] != helperArg {
		return 0, false
	}
	return serveSockets(), true
}

// socketServer opens Unix sockets in the helper process, with the account's rights. It also copies their
// bytes to and from the agent: a program may ask the kernel who wrote to its socket (unix(7),
// SCM_CREDENTIALS), and the answer must be the account and not root.
//
// handle is called by one goroutine. Each listener and each direction of a relay has a goroutine of its own.
// They end with the process, which does not wait for them.
type socketServer struct {
	control *net.UnixConn

	mu        sync.Mutex // guards what follows
	listeners map[uint32]*boundSocket
	conns     map[uint32]*net.UnixConn // by id: connections whose bytes are copied
	pending   map[uint32]*net.UnixConn // by id: accepted connections that the agent has not taken
	accepted  uint32                   // connections accepted so far
}

// serveSockets does what the agent asks for in messages on stdin until the agent closes it, and then removes
// the sockets that it made. It returns the status to exit with. It ignores signals that would end it before
// it has removed the sockets.
func serveSockets() int {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	process.EnterHome()
	control, err := connFromFD(0)
	if err != nil {
		return 1
	}
	s := &socketServer{
		control:   control,
		listeners: map[uint32]*boundSocket{},
		conns:     map[uint32]*net.UnixConn{},
		pending:   map[uint32]*net.UnixConn{},
	}
	defer s.removeAll()
	buf, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4)) // room for one descriptor
	for {
		request, agentEnd, err := receiveMessage(control, buf, oob)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			return 1
		}
		s.handle(request, agentEnd)
	}
}

// handle does what one message asks for, and sends the reply if the message has one. agentEnd is the stream
// that came along with the message, or nil; handle takes it over. It never waits for a peer, so one request
// does not hold up the next. A message that makes no sense is ignored.
func (s *socketServer) handle(request message, agentEnd *net.UnixConn) {
	switch {
	case request.op == opDial && agentEnd != nil:
		s.reply(request, "", s.dial(request.id, request.text, agentEnd))
	case request.op == opListen:
		_, err := s.listen(request.id, request.text, "" /* no directory was made */)
		s.reply(request, "", err)
	case request.op == opListenAgent:
		path, err := s.listenAgent(request.id)
		s.reply(request, path, err)
	case request.op == opCloseListener:
		s.closeListener(request.id)
		s.reply(request, "", nil)
	case request.op == opAccept && agentEnd != nil:
		s.acceptPending(request.id, agentEnd)
	case request.op == opCloseConn:
		s.closeConn(request.id)
	default:
		if agentEnd != nil {
			agentEnd.Close()
		}
	}
}

// reply answers a request: with opOK and the text if err is nil, else with opError and the errno in err, or
// EIO if there is none in it.
func (s *socketServer) reply(request message, text string, err error) {
	if err == nil {
		_ = sendMessage(s.control, message{op: opOK, id: request.id, text: text}, nil)
		return
	}
	errno := syscall.EIO
	_ = errors.As(err, &errno)
	_ = sendMessage(s.control, message{op: opError, id: request.id, text: encodeNumber(uint32(errno))}, nil)
}

// dial connects to the socket at path, and relays between it and agentEnd, which it takes over. It does not
// block: if the queue of the listening program is full, it returns EAGAIN at once.
func (s *socketServer) dial(id uint32, path string, agentEnd *net.UnixConn) error {
	conn, err := connectUnix(path)
	if err != nil {
		agentEnd.Close()
		return err
	}
	s.startRelay(id, conn, agentEnd)
	return nil
}

// connectUnix connects to the Unix socket at path without blocking.
func connectUnix(path string) (*net.UnixConn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return connFromFD(fd)
}

// boundSocket is a listener with what has to be removed after it.
type boundSocket struct {
	*net.UnixListener
	path     string
	dev, ino uint64 // of the socket at path, by which remove knows that it is still the same file
	dir      string // the directory made for it; empty: none
}

// listen makes a socket at path that only the account may connect to, and starts to accept connections. dir
// is the directory that was made for the socket and is removed with it, or "". An existing file at path
// stays, and the error is EADDRINUSE: bind(2) follows no symbolic link and replaces nothing.
func (s *socketServer) listen(id uint32, path, dir string) (*boundSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close() // net.FileListener keeps a copy
	// The umask gives the socket its mode when it is made, so there is no moment at which others may connect.
	// It belongs to the whole process; only handle makes files here, on one goroutine.
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	bound := &boundSocket{path: path, dir: dir}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	bound.dev, bound.ino = uint64(st.Dev), st.Ino
	if err := bound.listen(fd, file); err != nil {
		bound.remove()
		return nil, err
	}
	s.mu.Lock()
	s.listeners[id] = bound
	s.mu.Unlock()
	go s.acceptLoop(id, bound) // ends when the listener is closed
	return bound, nil
}

// listen listens on the bound socket fd and keeps a listener for it. file is the same socket.
func (b *boundSocket) listen(fd int, file *os.File) error {
	if err := unix.Listen(fd, backlog); err != nil {
		return err
	}
	l, err := net.FileListener(file)
	if err != nil {
		return err
	}
	b.UnixListener = l.(*net.UnixListener) // the socket was made above
	return nil
}

// remove removes the socket, unless another file has taken its place, and the directory that was made for it.
func (b *boundSocket) remove() {
	var st unix.Stat_t
	if err := unix.Lstat(b.path, &st); err == nil && uint64(st.Dev) == b.dev && st.Ino == b.ino {
		_ = os.Remove(b.path)
	}
	if b.dir != "" {
		_ = os.Remove(b.dir)
	}
}

// listenAgent makes a directory that no other account may enter, and listens on a socket in it, whose path it
// returns.
func (s *socketServer) listenAgent(id uint32) (path string, err error) {
	dir, err := os.MkdirTemp("", "threshold-agent-")
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, "agent")
	if _, err := s.listen(id, path, dir); err != nil {
		_ = os.Remove(dir)
		return "", err
	}
	return path, nil
}

// acceptLoop accepts connections to a listener and reports the id of each to the agent, which takes the
// connection with opAccept. It closes connections that come while maxPending are waiting. It ends when the
// listener is closed.
func (s *socketServer) acceptLoop(id uint32, bound *boundSocket) {
	for {
		accepted, err := bound.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		if conn, ok := s.addPending(accepted); ok {
			_ = sendMessage(s.control, message{op: opIncoming, id: id, text: encodeNumber(conn)}, nil)
		} else {
			accepted.Close()
		}
	}
}

// addPending keeps an accepted connection until the agent takes it, and returns its id. ok is false if
// maxPending connections are waiting already.
func (s *socketServer) addPending(accepted *net.UnixConn) (id uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) >= maxPending {
		return 0, false
	}
	s.accepted++
	id = s.accepted | acceptedBit
	s.pending[id] = accepted
	return id, true
}

// acceptPending relays between the accepted connection id and agentEnd, which it takes over.
func (s *socketServer) acceptPending(id uint32, agentEnd *net.UnixConn) {
	s.mu.Lock()
	accepted := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if accepted == nil {
		agentEnd.Close()
		return
	}
	s.startRelay(id, accepted, agentEnd)
}

func (s *socketServer) startRelay(id uint32, conn, agentEnd *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[id] = conn
	go s.relay(id, conn, agentEnd) // ends when both directions have ended; the process does not wait for it
}

// closeConn is called when the agent no longer takes what a connection sends. It reads nothing more from the
// connection. Data from the agent is still delivered to it, for up to lingerTime. A connection that the agent
// has not taken yet is closed at once.
func (s *socketServer) closeConn(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if conn := s.pending[id]; conn != nil {
		delete(s.pending, id)
		conn.Close()
	}
	if conn := s.conns[id]; conn != nil {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // in the past: reads fail at once
		_ = conn.SetWriteDeadline(time.Now().Add(lingerTime))
	}
}

// closeListener closes a listener and removes its socket. An unknown id is ignored.
func (s *socketServer) closeListener(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if bound := s.listeners[id]; bound != nil {
		delete(s.listeners, id)
		bound.remove()
		bound.Close()
	}
}

func (s *socketServer) removeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, bound := range s.listeners {
		bound.remove()
	}
}

// relay copies bytes between a socket and the agent until both directions have ended.
func (s *socketServer) relay(id uint32, conn, agent *net.UnixConn) {
	var directions sync.WaitGroup
	directions.Go(func() { copyHalf(conn, agent) })
	directions.Go(func() { copyHalf(agent, conn) })
	directions.Wait()
	conn.Close()
	agent.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, id)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

// copyHalf copies one direction, and then closes that direction at both ends.
func copyHalf(to, from *net.UnixConn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	_ = to.CloseWrite()
	_ = from.CloseRead()
}
