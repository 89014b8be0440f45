package session

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
)

const (
	// maxPending is how many accepted connections may wait for the node to take them.
	maxPending = 64
	// lingerTime is how long what was sent may take to be delivered once its sender is gone.
	lingerTime = 10 * time.Second
	// acceptPause is the wait after an accept that failed, as it does without free descriptors.
	acceptPause = 100 * time.Millisecond
)

// socketServer is the process that reaches Unix sockets as an account. It moves their bytes too: what a
// program sends carries the credentials of whoever sends it (unix(7), SCM_CREDENTIALS), so bytes for somebody
// must not be written by root.
type socketServer struct {
	control *net.UnixConn

	mu        sync.Mutex // guards what follows
	listeners map[uint32]*boundSocket
	conns     map[uint32]*net.UnixConn // by id: those whose bytes are moved
	pending   map[uint32]*net.UnixConn // by id: those accepted and not yet taken
	accepted  uint32                   // accepted so far
}

// serveSockets does what the node asks for on stdin until the node hangs up, and removes what it made.
func serveSockets() int {
	signal.Ignore(
		syscall.SIGHUP,
		syscall.SIGINT,
		syscall.SIGTERM,
	) // the node's end is the one end there is: what was made is removed then
	chdirHome()
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
	buf, room := make([]byte, maxMessage+1), make([]byte, unix.CmsgSpace(4))
	for {
		n, with, err := receiveMessage(control, buf, room)
		if err != nil {
			if errors.Is(err, io.EOF) {
				return 0
			}
			return 1
		}
		s.handle(n, with)
	}
}

// handle does what one note asks for. Nothing it does waits.
func (s *socketServer) handle(n message, with *net.UnixConn) {
	switch {
	case n.op == opDial && with != nil:
		s.reply(n, "", s.dial(n.id, n.text, with))
	case n.op == opListen:
		_, err := s.listen(n.id, n.text, "")
		s.reply(n, "", err)
	case n.op == opListenAgent:
		path, err := s.listenAgent(n.id)
		s.reply(n, path, err)
	case n.op == opCloseListener:
		s.closeListener(n.id)
		s.reply(n, "", nil)
	case n.op == opAccept && with != nil:
		s.acceptPending(n.id, with)
	case n.op == opCloseConn:
		s.closeConn(n.id)
	default:
		if with != nil {
			with.Close()
		}
	}
}

func (s *socketServer) reply(n message, text string, err error) {
	if err == nil {
		_ = sendMessage(s.control, message{opOK, n.id, text}, nil)
		return
	}
	errno := syscall.EIO
	_ = errors.As(err, &errno)
	_ = sendMessage(s.control, message{opError, n.id, encodeNumber(uint32(errno))}, nil)
}

// dial connects; a socket that has no room for one more refuses at once.
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
	dir      string // made for it; empty: none
}

// listen makes a socket that the account alone may connect to. What is there already stays: bind follows no
// link and replaces nothing.
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
	b.UnixListener = l.(*net.UnixListener) // of a socket that was made here
	return nil
}

// remove takes the socket away if it is still the one that was made.
func (b *boundSocket) remove() {
	var st unix.Stat_t
	if err := unix.Lstat(b.path, &st); err == nil && uint64(st.Dev) == b.dev && st.Ino == b.ino {
		_ = os.Remove(b.path)
	}
	if b.dir != "" {
		_ = os.Remove(b.dir)
	}
}

// listenAgent listens in a folder of its own, which nobody else may enter.
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

// acceptLoop tells the node of everyone who comes, and turns away those who come while many wait.
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
		if comer, ok := s.addPending(c); ok {
			_ = sendMessage(s.control, message{opIncoming, id, encodeNumber(comer)}, nil)
		} else {
			c.Close()
		}
	}
}

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
	go s.relay(id, conn, with) // ends with both ends; the process ends without waiting for it
}

// closeConn lets what was sent to a connection arrive, and takes nothing more from it.
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

// relay moves bytes between a socket and the node, each way to its own end.
func (s *socketServer) relay(id uint32, conn, node *net.UnixConn) {
	var ways sync.WaitGroup
	ways.Go(func() { copyHalf(conn, node) })
	ways.Go(func() { copyHalf(node, conn) })
	ways.Wait()
	conn.Close()
	node.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, id)
}

// copyHalf moves one way's bytes, and tells both ends of its end.
func copyHalf(to, from *net.UnixConn) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *buf)
	_ = to.CloseWrite()
	_ = from.CloseRead()
}
