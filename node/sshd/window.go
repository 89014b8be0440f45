package sshd

import (
	"reflect"
	"sync"
	"unsafe"

	"golang.org/x/crypto/ssh"
)

const (
	// maxWindow is the initial window that x/crypto grants on a channel, in bytes (RFC 4254 section 5.2). A
	// client that sends more than its program reads makes the node hold up to this much.
	maxWindow = 2 << 20
	// windowBudget bounds the windows of all channels together, in bytes, except that each channel gets at
	// least minWindow. Each channel gets a part of what is left of the budget: the first ones a large part,
	// with which clients far away are fast; the more channels there are, the less the next one gets. So the
	// node needs little memory when many clients send at once.
	windowBudget = 3 << 19
	minWindow    = 64 << 10
)

// windows divides the window budget among the channels of all connections.
type windows struct {
	mu       sync.Mutex // guards assigned
	assigned int        // bytes, over all open channels
}

// assign sets the window of a channel that has not been accepted yet. The channel keeps its share of the
// budget until giveBack is called, which must happen exactly once.
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

// setWindow makes Accept grant a window of so many bytes, and reports whether it could. It never makes a
// window larger. x/crypto has no option for it, so this writes an unexported field of the channel. If a later
// version has no such field, setWindow changes nothing, channels keep the library's window, and
// TestManyChannelsShareTheWindowBudget fails (docs/decisions/0013).
func setWindow(nc ssh.NewChannel, bytes uint32) bool {
	channel := reflect.ValueOf(nc)
	isStructPointer := channel.Kind() == reflect.Pointer && channel.Elem().Kind() == reflect.Struct
	if !isStructPointer {
		return false
	}
	field := channel.Elem().FieldByName("myWindow") // of another kind than Uint32 if there is none
	if field.Kind() != reflect.Uint32 || uint32(field.Uint()) < bytes {
		return false
	}
	*(*uint32)(unsafe.Pointer(field.UnsafeAddr())) = bytes
	return true
}
