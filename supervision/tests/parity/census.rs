//! The model's tree, seen from outside.

use crate::model::{Child, Place, Sup};
use crate::scenario::Strategy;

impl Sup {
    pub(crate) fn count(&self) -> String {
        let active = self.children.iter().filter(|child| matches!(child.place, Place::Worker | Place::Sup(_))).count();
        let sups = self.children.iter().filter(|child| child.node.flags.is_some()).count();
        let specs = match self.flags.strategy {
            Strategy::Simple => String::new(),
            _ => format!("{} ", self.children.len()),
        };
        format!("{specs}{active} {sups} {}", self.children.len() - sups)
    }

    pub(crate) fn show(&self, tree: &mut String) {
        let is_pool = self.flags.strategy == Strategy::Simple;
        let mut children: Vec<&Child> = self.children.iter().collect();
        if is_pool {
            children.sort_by(|one, other| one.node.id.cmp(&other.node.id));
        }
        tree.push_str(&self.node.id);
        tree.push(if is_pool { '{' } else { '[' });
        for (index, child) in children.into_iter().enumerate() {
            tree.push_str(if index > 0 { " " } else { "" });
            match &child.place {
                Place::Sup(sup) => sup.show(tree),
                Place::Worker => tree.push_str(&child.node.id),
                Place::Undefined | Place::Restarting => {
                    tree.push_str(&child.node.id);
                    tree.push('-');
                }
            }
        }
        tree.push(if is_pool { '}' } else { ']' });
    }
}
/// Who is where, for those who think of the next step.
#[derive(Default)]
pub(crate) struct Census {
    /// Workers that run.
    pub(crate) workers: Vec<String>,
    /// Supervisors that run, pools apart.
    pub(crate) supervisors: Vec<String>,
    pub(crate) pools: Vec<String>,
    /// Children of `supervisors`, running or not: supervisor and id.
    pub(crate) children: Vec<(String, String)>,
}

impl Census {
    pub(crate) fn take(&mut self, sup: &Sup) {
        let is_pool = sup.flags.strategy == Strategy::Simple;
        if is_pool {
            self.pools.push(sup.node.id.clone());
        } else {
            self.supervisors.push(sup.node.id.clone());
        }
        for child in &sup.children {
            if !is_pool {
                self.children.push((sup.node.id.clone(), child.node.id.clone()));
            }
            match &child.place {
                Place::Worker => self.workers.push(child.node.id.clone()),
                Place::Sup(inner) => self.take(inner),
                Place::Undefined | Place::Restarting => {}
            }
        }
    }
}
