package jump

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
)

const (
	// A read from a client's TLS connection gives one record; the tunnel gives as much as has come, and a
	// packet of SSH takes three.
	clientBufferBytes = 16 << 10
	nodeBufferBytes   = 48 << 10
	// clientLinger is how long the client may go on sending after the node has ended: SSH is over then, and
	// only its last words are under way.
	clientLinger = 5 * time.Second
)

var (
	clientBuffers = sync.Pool{New: func() any { b := make([]byte, clientBufferBytes); return &b }}
	nodeBuffers   = sync.Pool{New: func() any { b := make([]byte, nodeBufferBytes); return &b }}
)

// halfCloser is one end of a relay: a TLS connection, an SSH channel or a tunnel stream.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// relay copies both ways until both have ended, an error ends both, or ctx does. It closes both.
func relay(ctx context.Context, client, node io.ReadWriteCloser) {
	closeBoth := sync.OnceFunc(func() { client.Close(); node.Close() })
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { copyOneWay(node, client, &clientBuffers, closeBoth) })
	var late *time.Timer // read after both have ended
	both.Go(func() {
		copyOneWay(client, node, &nodeBuffers, closeBoth)
		late = time.AfterFunc(clientLinger, closeBoth)
	})
	both.Wait()
	late.Stop()
}

// copyOneWay copies until src ends and tells dst so; when that is not possible, both are closed.
func copyOneWay(dst io.Writer, src io.Reader, buffers *sync.Pool, closeBoth func()) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(coalesce.Writer(dst), src, *buf)
	half, ok := dst.(halfCloser)
	if err != nil || !ok || half.CloseWrite() != nil {
		closeBoth()
	}
}
