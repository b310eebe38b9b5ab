/** Twelve steps through the page in the order of the lessons, each with a question before its answer. */
import type { Stage } from './app.svelte';

export interface Step { title: string; stage: Stage; question: string; answer: string; todo: string; lesson: string; /** The scene that it needs, by its place. */ scene?: number }

export const TOUR: Step[] = [
  { title: 'One image, one answer per pixel', stage: 'argmax', lesson: '00', question: 'How many segments may one pixel belong to?',
    answer: 'Exactly one. Things (a worker) and stuff (the sky) share the image between them: that is a panoptic segmentation.', todo: 'Press a segment in the result.' },
  { title: 'The truth is drawn', stage: 'image', lesson: '01', question: 'How can the page know which pixels are wrong?',
    answer: 'The scene is drawn by code, so each pixel\'s true class is known exactly.', todo: 'Drag a thing and watch the result follow.' },
  { title: 'Cells', stage: 'backbone', lesson: '02', question: 'Why are there so few, large squares in Res5?',
    answer: 'The ResNet halves the image again and again. Each square is one cell that many numbers describe.', todo: 'Compare its colours with the image.' },
  { title: 'Cells talk', stage: 'encoder', lesson: '03', question: 'Which cells will a cell on a machine attend to?',
    answer: 'It differs from head to head: some attend to the same machine, some to a band of the image. Look for yourself.', todo: 'Point at a cell of a machine, then at one of the sky.' },
  { title: 'Queries ask', stage: 'boxes', lesson: '04', question: 'What do the queries that found nothing answer?',
    answer: '"No object". They stay in the list below, greyed, with the score of that answer.', todo: 'Read the list to its end.' },
  { title: 'The threshold', stage: 'boxes', lesson: '09', scene: 19, question: 'What happens to the pixels of a segment when the threshold passes its score?',
    answer: 'They go to the next highest masks: no pixel stays empty as long as any query is kept.', todo: 'Move the threshold to 0.80, 0.90 and 0.99.' },
  { title: 'One query per object', stage: 'argmax', lesson: '05', scene: 4, question: 'Workers stand apart; push one in front of another. Do both keep a query?',
    answer: 'In training each object is matched with one query, so two objects should keep two. When one is nearly hidden, its query often answers "no object".', todo: 'Drag one worker in front of another.' },
  { title: 'Heatmaps', stage: 'heatmaps', lesson: '06', scene: 11, question: 'Do all eight heads look at the object?',
    answer: 'Read the shares below the pictures: one softmax over all heads lets some hold nearly everything and others nothing.', todo: 'Choose other objects and compare which heads they use.' },
  { title: 'Mute a head', stage: 'heatmaps', lesson: '06', question: 'What remains of the mask without the head that has the largest share?',
    answer: 'Without where to look, the mask head does not know which object is meant.', todo: 'Mute it; then mute one with a share of 0 %.' },
  { title: 'Paint a heatmap', stage: 'heatmaps', lesson: '07', question: 'Can you make the mask head cut out something by painting where it is?',
    answer: 'Yes, mostly: rough paint suffices, for edges come from Res4, Res3 and Res2.', todo: 'Paint over another object\'s cells.' },
  { title: 'Edges', stage: 'masks', lesson: '07', question: 'In which stage does the object get its sharp edge?',
    answer: 'Compare the pictures: each addition of a finer stage of the ResNet doubles the detail or sharpens it.', todo: 'Look from left to right.' },
  { title: 'Argmax', stage: 'argmax', lesson: '09', question: 'Two masks want one pixel. Who decides?',
    answer: 'The higher mask logit at that pixel, and nothing else.', todo: 'Pull the masks apart, then move a thing in front of another.' },
];
