package session

// Pid is the program's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Pid is the child's number.
func (r *Reach) Pid() int { return r.child.cmd.Process.Pid }
