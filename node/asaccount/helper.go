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

// RunHelper does the work of the account helper if this process is one, and returns the status to exit with.
// Every program that embeds a node calls it first in main, beside process.RunHelper.
func RunHelper() (code int, ok bool) {
	args, ok := process.HelperArgs()
	if !ok || len(args) != 1 || args[0] != helperArg {
		return 0, false
	}
	return serveSockets(), true
}

// socketServer opens Unix sockets in the helper process, with the account's rights. It also copies their
// bytes. A program behind a socket may ask for the credentials of whoever sent the bytes (unix(7),
// SCM_CREDENTIALS), so root must not write them.
//
// handle runs on one goroutine. Each listener and each direction of a relay has its own; all of them end with
// the process, which waits for none.
type socketServer struct {
	control *net.UnixConn

	mu        sync.Mutex // guards what follows
	listeners map[uint32]*boundSocket
	conns     map[uint32]*net.UnixConn // by id: connections whose bytes are copied
	pending   map[uint32]*net.UnixConn // by id: accepted connections that the agent has not taken
	accepted  uint32                   // connections accepted so far
}

// serveSockets does what the agent asks for on stdin until the agent closes it, and then removes the sockets
// that it made. It ignores signals that would end it before that.
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
	buf, oob := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4))
	for {
		m, with, err := receiveMessage(control, buf, oob)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			return 1
		}
		s.handle(m, with)
	}
}

// handle does what one message asks for. It never waits for a peer.
func (s *socketServer) handle(m message, with *net.UnixConn) {
	switch {
	case m.op == opDial && with != nil:
		s.reply(m, "", s.dial(m.id, m.text, with))
	case m.op == opListen:
		_, err := s.listen(m.id, m.text, "")
		s.reply(m, "", err)
	case m.op == opListenAgent:
		path, err := s.listenAgent(m.id)
		s.reply(m, path, err)
	case m.op == opCloseListener:
		s.closeListener(m.id)
		s.reply(m, "", nil)
	case m.op == opAccept && with != nil:
		s.acceptPending(m.id, with)
	case m.op == opCloseConn:
		s.closeConn(m.id)
	default:
		if with != nil {
			with.Close()
		}
	}
}

// reply answers a message: with the text, or with the errno if err is not nil (EIO if it has none).
func (s *socketServer) reply(m message, text string, err error) {
	if err == nil {
		_ = sendMessage(s.control, message{opOK, m.id, text}, nil)
		return
	}
	errno := syscall.EIO
	_ = errors.As(err, &errno)
	_ = sendMessage(s.control, message{opError, m.id, encodeNumber(uint32(errno))}, nil)
}

// dial connects to a socket. It does not block: a listener whose queue is full refuses at once (EAGAIN).
func (s *socketServer) dial(id uint32, path string, with *net.UnixConn) error {
	conn, err := connectUnix(path)
	if err != nil {
		with.Close()
		return err
	}
	s.startRelay(id, conn, with)
	return nil
}

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
	dev, ino uint64 // of the socket at path
	dir      string // the directory made for it; empty: none
}

// listen makes a socket that only the account may connect to. An existing file stays: bind(2) follows no
// symbolic link and replaces nothing.
func (s *socketServer) listen(id uint32, path, dir string) (*boundSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // net.FileListener keeps a copy
	old := unix.Umask(0o177)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	b := &boundSocket{path: path, dir: dir}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, err
	}
	b.dev, b.ino = uint64(st.Dev), st.Ino
	if err := b.listen(fd, f); err != nil {
		b.remove()
		return nil, err
	}
	s.mu.Lock()
	s.listeners[id] = b
	s.mu.Unlock()
	go s.acceptLoop(id, b) // ends when the listener is closed
	return b, nil
}

func (b *boundSocket) listen(fd int, f *os.File) error {
	if err := unix.Listen(fd, backlog); err != nil {
		return err
	}
	l, err := net.FileListener(f)
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

// listenAgent listens in a new directory that no other account may enter.
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

// acceptLoop reports each accepted connection to the agent. It closes connections that come while too many
// are pending.
func (s *socketServer) acceptLoop(id uint32, b *boundSocket) {
	for {
		c, err := b.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		if conn, ok := s.addPending(c); ok {
			_ = sendMessage(s.control, message{opIncoming, id, encodeNumber(conn)}, nil)
		} else {
			c.Close()
		}
	}
}

// addPending keeps an accepted connection until the agent takes it, and returns its id.
func (s *socketServer) addPending(c *net.UnixConn) (id uint32, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) >= maxPending {
		return 0, false
	}
	s.accepted++
	id = s.accepted | acceptedBit
	s.pending[id] = c
	return id, true
}

// acceptPending connects an accepted connection with the stream that the agent gave for it.
func (s *socketServer) acceptPending(id uint32, with *net.UnixConn) {
	s.mu.Lock()
	c := s.pending[id]
	delete(s.pending, id)
	s.mu.Unlock()
	if c == nil {
		with.Close()
		return
	}
	s.startRelay(id, c, with)
}

func (s *socketServer) startRelay(id uint32, conn, with *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[id] = conn
	go s.relay(id, conn, with) // ends when both directions have ended; the process does not wait for it
}

// closeConn takes nothing more from a connection. What was sent to it is still delivered, for up to
// lingerTime.
func (s *socketServer) closeConn(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.pending[id]; c != nil {
		delete(s.pending, id)
		c.Close()
	}
	if c := s.conns[id]; c != nil {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		_ = c.SetWriteDeadline(time.Now().Add(lingerTime))
	}
}

func (s *socketServer) closeListener(id uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.listeners[id]; b != nil {
		delete(s.listeners, id)
		b.remove()
		b.Close()
	}
}

func (s *socketServer) removeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.listeners {
		b.remove()
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
