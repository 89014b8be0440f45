package open

// Decide decides once, as Run does at each change, and returns how many uses are denied that were not before.
func (r *Registry) Decide() int {
	denials, _ := r.decide()
	return len(denials)
}
