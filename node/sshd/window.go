package sshd

import (
	"reflect"
	"sync"
	"unsafe"

	"golang.org/x/crypto/ssh"
)

const (
	// maxWindow is the initial window that x/crypto grants on a channel (RFC 4254 section 5.2). A client that
	// sends more than its program reads makes the node hold up to this much.
	maxWindow = 2 << 20
	// windowBudget is what the windows of all channels have together, except that each gets at least
	// minWindow. The first channels get a large part of it, which clients far away need for their speed; the
	// more channels there are, the less the next one gets. So the node stays small when many clients send at
	// once.
	windowBudget = 3 << 19
	minWindow    = 64 << 10
)

// windows shares the window budget out among the channels of all connections.
type windows struct {
	mu       sync.Mutex // guards assigned
	assigned int        // bytes, over all open channels
}

// assign sets the window of a channel that has not been accepted yet. The channel keeps its share of the
// budget until giveBack is called.
func (w *windows) assign(nc ssh.NewChannel) (giveBack func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	share := min(max((windowBudget-w.assigned)*2/3, minWindow), maxWindow)
	setWindow(nc, uint32(share))
	w.assigned += share
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.assigned -= share
	}
}

// setWindow sets the window that Accept will grant, and reports whether it could. x/crypto has no option for
// it, so this writes the channel's unexported field. If a later version has no such field, channels keep the
// library's window and TestManyChannelsShareTheWindowBudget fails (docs/decisions/0013).
func setWindow(nc ssh.NewChannel, bytes uint32) bool {
	v := reflect.ValueOf(nc)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false
	}
	field := v.Elem().FieldByName("myWindow")
	if field.Kind() != reflect.Uint32 || uint32(field.Uint()) < bytes {
		return false
	}
	*(*uint32)(unsafe.Pointer(field.UnsafeAddr())) = bytes
	return true
}
